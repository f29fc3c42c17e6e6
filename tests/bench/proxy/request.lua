-- One chat request after another; a JSON line of results at the end.
-- Arguments: model, "unique" or "same", a word that no other run uses, then header lines "name: value".
local words = {}
for word in ([[anchor basket candle desert engine forest garden harbour island jacket kettle ladder market needle
  orange pencil quarry ribbon saddle temple umbrella valley window yellow zephyr bridge copper dragon eagle feather
  glacier hammer insect jungle kingdom lantern meadow nectar oyster pepper rocket spider thunder velvet walnut]])
  :gmatch("%a+") do
  words[#words + 1] = word
end

local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

function init(args)
  model, unique, run = args[1], args[2] == "unique", args[3]
  sent = 0
  wrk.method = "POST"
  wrk.headers["content-type"] = "application/json"
  for i = 4, #args do
    local name, value = args[i]:match("^([^:]+): (.*)$")
    wrk.headers[name] = value
  end
  math.randomseed(os.time())
end

function request()
  sent = sent + 1
  local prompt = "Tell me about the first bridge"
  if unique then
    local picked = {}
    for i = 1, 8 do
      picked[i] = words[math.random(#words)]
    end
    prompt = "Tell me about " .. table.concat(picked, " ") .. " " .. run .. sent
  end
  local body = '{"model":"' .. model .. '","messages":[{"role":"user","content":"' .. prompt .. '"}]}'
  return wrk.format(nil, nil, nil, body)
end

function done(summary, latency, requests)
  local total = -1 -- wrk calls request() once to look at it, without sending
  for _, thread in ipairs(threads) do
    total = total + thread:get("sent")
  end
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"errors":%d,"sent":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout, total))
end
