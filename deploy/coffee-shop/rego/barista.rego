# What barista-service brews, when, and for whom. writ asks this for the CUSTOM policy barista-house-rules, with the request
# as Envoy describes it, and in input.writ what writ has verified: the caller's identity and the claims of the token.
package barista

# decision is what writ asks for. The status and the text of a no go to the caller as they are.
decision := {"allowed": true} if count(objections) == 0

decision := {"allowed": false, "http_status": 403, "body": concat(", ", sort(objections))} if count(objections) > 0

objections contains "we are closed" if not open

objections contains "the reserve is for gold customers" if {
	input.parsed_path == ["brews", "reserve"]
	not gold
}

open if {
	[hour, _, _] := time.clock([time.now_ns(), "UTC"])
	hour >= data.hours.opens
	hour < data.hours.closes
}

# Without a token, or with a bad one, there are no claims, and nobody is gold.
gold if input.writ.claims.loyalty == "gold"
