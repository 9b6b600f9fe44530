package extauthz

// Translate is what [JSONReader.Read] does before it asks ParseJSON; ok is whether it need not.
func (r *JSONReader) Translate(line []byte) (raw []byte, ok bool) { return r.translate(line) }
