-- The intents without an outcome: those of this moment, and what crashes have left.
CREATE INDEX certificates_open ON certificates (seq) WHERE state = 0;
