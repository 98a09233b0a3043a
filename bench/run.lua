--- The benches: measures rows side by side and prints a table of ratios. `make bench` builds the contenders and calls this. A missed
--- target is no error: the exit code tells only whether all could be run.

local measure = require "bench.measure"
local report = require "bench.report"
local results_table = require "bench.table"
local workers = require "bench.workers"

-- files of bench/rows, in the order of the table
local GROUPS = { "lua_calls", "marks", "states", "reading", "durable", "following", "recovery" }

local USAGE = [[
usage: make bench [ROWS='what'] [REPORT=directory] [BENCH_DIR=directory] [BENCH_OPTIONS='--rounds N --seconds N']
  ROWS       only rows with this, text or Lua pattern, in "group: what"; default: all, which takes some minutes
  REPORT     writes the rows that were run into the page REPORT.md, in place of those that stand there, and plots into the directory
  BENCH_DIR  where files are written, up to 4 GiB; on a disk. Default: build/bench
  --rounds   how often every contender is asked (25); --seconds: how long each time (0.01)]]

local function refuse(message)
  io.stderr:write("bench: ", message, "\n", USAGE, "\n")
  os.exit(2)
end

local function read_options(words)
  local options = { rows = "", rounds = 25, seconds = 0.01 }
  for i = 1, #words, 2 do
    local name, value = words[i]:match "^%-%-(%l+)$", words[i + 1]
    if name == "help" then
      print(USAGE)
      os.exit(0)
    elseif name ~= "report" and not options[name] then
      refuse("no such option: " .. words[i])
    elseif not value then
      refuse(words[i] .. " needs a value")
    elseif type(options[name]) == "number" then
      value = tonumber(value)
      if not value or value <= 0 or name == "rounds" and value % 1 ~= 0 then
        refuse(words[i] .. " needs a number above 0")
      end
    end
    options[name] = value
  end
  return options
end

-- The groups with the rows that are wanted.
local function choose(wanted)
  local chosen = {}
  local is_pattern = pcall(string.find, "", wanted)
  for _, file in ipairs(GROUPS) do
    local group = require("bench.rows." .. file)
    local rows = {}
    for _, row in ipairs(group.rows) do
      local name = group.title .. ": " .. row.what
      if name:find(wanted, 1, true) or is_pattern and name:find(wanted) then
        rows[#rows + 1] = row
      end
    end
    chosen[#chosen + 1] = #rows > 0 and { title = group.title, rows = rows } or nil
  end
  if #chosen == 0 then
    refuse(("no row has '%s' in its name"):format(wanted))
  end
  return chosen
end

local options = read_options(arg)
local chosen = choose(options.rows)
local problem = options.report and report.check(options.report)
if problem then
  refuse(problem)
end

local results = {}
print(results_table.NOTE .. "\n\n" .. results_table.head())
for _, group in ipairs(chosen) do
  print(("\n%s"):format(group.title))
  for _, row in ipairs(group.rows) do
    local result = measure.run(row, workers, options)
    result.group = group.title
    results[#results + 1] = result
    print(results_table.line(result))
    io.stdout:flush()
  end
end
print(("\n%s"):format(results_table.summary(results)))
if options.report then
  report.write(results, options.report, options)
end
