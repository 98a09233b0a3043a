--- Measures rows side by side. A row names its contenders; in each round every one of them is asked once, in an order that turns
--- from round to round, so that what disturbs the machine meets all. What counts is the ratio within a round.

local stats = require "bench.stats"
local worker = require "bench.worker"

local measure = {}

---@class Contender
---@field name string
---@field worker string a name in bench/workers.lua
---@field ask string the line that has the worker do one round

---@class Row
---@field what string
---@field contenders Contender[]
---@field ratio? string[] { over, under }: two contenders' names. None: the figure is the first contender's own value
---@field target? table { "<=" or ">=", number }
---@field repeats? integer how many rounds take the place of one, for an answer that is a single operation
---@field unit string of the values: "ns", "bytes" ...
---@field on_one? boolean whether the contenders run on the same processor
---@field chart? string the title of the chart that shows it
---@field x? number its place in a chart of lines
---@field label? string its name in a chart of bars; default: what

---@class Result
---@field row Row
---@field skipped? string why
---@field values table<string, Spread> by contender
---@field figure Spread of the ratio, or of the value
---@field verdict string "met", "missed", "skipped: why", or "" without a target

---@param target? table
---@param median number
---@return string
function measure.judge(target, median)
  if not target then
    return ""
  end
  local is_met
  if target[1] == "<=" then
    is_met = median <= target[2]
  else
    assert(target[1] == ">=", "a target is <= or >=")
    is_met = median >= target[2]
  end
  return is_met and "met" or "missed"
end

-- The workers of a row by name; or nil and why one of them cannot be had.
local function start_all(row, workers, seconds)
  local started = {}
  for _, contender in ipairs(row.contenders) do
    local name = contender.worker
    local entry = assert(workers[name], name)
    if entry.missing then
      return nil, entry.missing, started
    end
    started[name] = started[name] or worker.start(entry.command, seconds, row.on_one)
  end
  return started, nil, started
end

-- All samples by contender; or nil and the reason to skip.
local function run_rounds(row, started, rounds)
  local samples = {}
  for _, contender in ipairs(row.contenders) do
    samples[contender.name] = {}
  end
  for round = 0, rounds do -- round 0 warms up
    for i = 1, #row.contenders do
      local contender = row.contenders[(i + round) % #row.contenders + 1]
      local value, reason = started[contender.worker]:ask(contender.ask)
      if not value then
        return nil, reason
      end
      if round > 0 then
        samples[contender.name][round] = value
      end
    end
  end
  return samples
end

---@param row Row
---@param workers table<string, table> { command = } or { missing = reason }
---@param options { rounds: integer, seconds: number } seconds of one measurement
---@return Result
function measure.run(row, workers, options)
  local started, reason, to_stop = start_all(row, workers, options.seconds)
  local samples
  if started then
    samples, reason = run_rounds(row, started, options.rounds * (row.repeats or 1))
  end
  for _, each in pairs(to_stop) do
    each:stop()
  end
  if not samples then
    return { row = row, skipped = reason, values = {}, verdict = "skipped: " .. reason }
  end
  local result = { row = row, values = {} }
  for name, values in pairs(samples) do
    result.values[name] = stats.spread(values)
  end
  if row.ratio then
    result.figure = stats.spread(stats.ratios(samples[row.ratio[1]], samples[row.ratio[2]]))
  else
    result.figure = result.values[row.contenders[1].name]
  end
  result.verdict = measure.judge(row.target, result.figure.median)
  return result
end

return measure
