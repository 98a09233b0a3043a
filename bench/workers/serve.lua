--- What each contender in Lua shares: answers the lines `case [count]` on its input with nanoseconds per operation, one a line.
--- `seconds` of one measurement are its argument; how many operations fit is found at a case's first line and then kept, where the
--- line does not fix it.
local mark = require "mark"

---@param cases table<string, fun(count: integer)> each does that many operations
return function(cases)
  local seconds = tonumber(arg[1]) or 0.01
  local counts = {}

  local function time(case, count)
    local start = os.clock()
    case(count)
    return os.clock() - start
  end

  io.stdout:setvbuf "line"
  for line in io.lines() do
    local name, fixed = line:match "^(%S+) ?(%d*)$"
    local case = assert(cases[name], "no such case")
    local count = tonumber(fixed) or counts[name]
    if not count then
      count = 64
      while time(case, count) < seconds do
        count = count * 2
      end
      counts[name] = count
    end
    mark() -- callgrind is told to dump its counts at each: bench/instructions.lua
    local value = time(case, count) / count * 1e9
    mark()
    print(("%.17g"):format(value))
  end
end
