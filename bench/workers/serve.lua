--- What each contender in Lua shares: answers the lines on its input with nanoseconds per operation, one a line. `seconds` of one
--- measurement are its argument; how many operations fit is found at a case's first line and then kept.

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
  for name in io.lines() do
    local case = assert(cases[name], "no such case")
    if not counts[name] then
      counts[name] = 64
      while time(case, counts[name]) < seconds do
        counts[name] = counts[name] * 2
      end
    end
    print(("%.17g"):format(time(case, counts[name]) / counts[name] * 1e9))
  end
end
