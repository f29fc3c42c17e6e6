-- The requests of another script (REQUEST_LUA), with pauses: PACE_MS each on the average.
dofile(os.getenv("REQUEST_LUA"))

local pace = tonumber(os.getenv("PACE_MS"))

function delay()
  return math.random(0, 2 * pace)
end
