--- The benches: measures rows side by side and prints a table of ratios.
---
---     lua5.4 bench/run.lua [--rows PATTERN] [--rounds N] [--seconds N] [--report DIRECTORY]
---
--- PATTERN is a Lua pattern, found in "group: what". `make bench` builds the contenders and calls this. A missed target is no
--- error: the exit code tells only whether all could be run.

local measure = require "bench.measure"
local report = require "bench.report"
local results_table = require "bench.table"
local workers = require "bench.workers"

-- files of bench/rows, in the order of the table
local GROUPS = { "lua_calls", "marks", "states", "reading", "durable", "following", "recovery" }

local USAGE = "usage: make bench [ROWS='Lua pattern'] [REPORT=directory] [BENCH_OPTIONS='--rounds N --seconds N']"

local function refuse(message)
  io.stderr:write("bench: ", message, "\n", USAGE, "\n")
  os.exit(2)
end

local options = { rows = "", rounds = 25, seconds = 0.01 }
for i = 1, #arg, 2 do
  local name, value = arg[i]:match "^%-%-(%l+)$", arg[i + 1]
  if name ~= "report" and not options[name] then
    refuse("no such option: " .. arg[i])
  elseif not value then
    refuse(arg[i] .. " needs a value")
  elseif type(options[name]) == "number" then
    value = tonumber(value)
    if not value or value <= 0 then
      refuse(arg[i] .. " needs a number above 0")
    end
  end
  options[name] = value
end

local results = {}
for _, file in ipairs(GROUPS) do
  local group = require("bench.rows." .. file)
  local has_title = false
  for _, row in ipairs(group.rows) do
    if (group.title .. ": " .. row.what):find(options.rows) then
      if #results == 0 then
        print(results_table.head())
      end
      if not has_title then
        print(("\n%s"):format(group.title))
        has_title = true
      end
      local result = measure.run(row, workers, options)
      result.group = group.title
      results[#results + 1] = result
      print(results_table.line(result))
      io.stdout:flush()
    end
  end
end
if #results == 0 then
  refuse(("no row has '%s' in its name"):format(options.rows))
end
print(("\n%s"):format(results_table.summary(results)))
if options.report then
  report.write(results, options.report, options)
end
