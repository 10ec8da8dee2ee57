-- What wrk sends, and one line of figures at the end: `bench RATE P50 P99 GOOD BAD`, times in microseconds.
--
-- SECRETS names a file with a secret a line, taken in turn; METHOD and BODY are those of every request. With IDEMPOTENCY=new,
-- each request has an `Idempotency-Key` of its own; with IDEMPOTENCY=repeated, all requests of one secret have the same.

local secrets = {}
for line in io.lines(os.getenv("SECRETS")) do
   secrets[#secrets + 1] = line
end

wrk.method = os.getenv("METHOD") or "GET"
local body = os.getenv("BODY") or ""
if body ~= "" then
   wrk.body = body
   wrk.headers["Content-Type"] = "application/json"
end
wrk.headers["secret"] = secrets[1]

local idempotency = os.getenv("IDEMPOTENCY")
if idempotency == "" then idempotency = nil end

-- With one secret wrk sends constant bytes, which takes less of the machine than asking here each time.
if #secrets > 1 or idempotency then
   local heads, tails, sent = {}, {}, 0
   local run = string.format("%x-%s", os.time(), tostring({}):match("0x(%x+)"))

   function init()
      for i, secret in ipairs(secrets) do
         wrk.headers["secret"] = secret
         if idempotency then
            wrk.headers["Idempotency-Key"] = "@"
         end
         -- Only the key differs between two requests of one secret, so the rest is written once.
         local request = wrk.format()
         local before, after = request:match("^(.*Idempotency%-Key: )@(.*)$")
         heads[i], tails[i] = before or request, after
      end
   end

   function request()
      sent = sent + 1
      local i = (sent - 1) % #heads + 1
      if not tails[i] then
         return heads[i]
      end
      return heads[i] .. (idempotency == "repeated" and "repeated" or run .. "-" .. sent) .. tails[i]
   end
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format("bench %d %d %d %d %d\n", summary.requests * 1000000 / summary.duration,
      latency:percentile(50), latency:percentile(99), summary.requests - errors.status,
      errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
