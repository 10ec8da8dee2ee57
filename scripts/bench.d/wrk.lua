-- What wrk sends, and one line of figures at the end: `bench RATE P50 P99 GOOD BAD`, times in microseconds.
--
-- SECRETS names a file with a secret a line, taken in turn; METHOD and BODY are those of every request.

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

-- With one secret wrk sends constant bytes, which takes less of the machine than asking here each time.
if #secrets > 1 then
   local requests, at = {}, 0

   function init()
      for i, secret in ipairs(secrets) do
         wrk.headers["secret"] = secret
         requests[i] = wrk.format()
      end
   end

   function request()
      at = at % #requests + 1
      return requests[at]
   end
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format("bench %d %d %d %d %d\n", summary.requests * 1000000 / summary.duration,
      latency:percentile(50), latency:percentile(99), summary.requests - errors.status,
      errors.status + errors.connect + errors.read + errors.write + errors.timeout))
end
