--- Medians and quartiles, for benches.

local stats = {}

-- The value below which that part of a sorted array lies, linear between two neighbours (type 7 of Hyndman and Fan, as in R).
local function quantile(sorted, part)
  local position = 1 + (#sorted - 1) * part
  local below = math.floor(position)
  local above = math.min(below + 1, #sorted)
  return sorted[below] + (sorted[above] - sorted[below]) * (position - below)
end

---@class Spread
---@field median number
---@field low number the lower quartile
---@field high number the upper one

---@param values number[] at least one; not changed
---@return Spread
function stats.spread(values)
  assert(#values > 0, "no values")
  local sorted = table.move(values, 1, #values, 1, {})
  table.sort(sorted)
  return { median = quantile(sorted, 0.5), low = quantile(sorted, 0.25), high = quantile(sorted, 0.75) }
end

--- The quotients of what was measured in the same round.
---@param over number[]
---@param under number[] as many
---@return number[]
function stats.ratios(over, under)
  assert(#over == #under, "not measured in the same rounds")
  local ratios = {}
  for round = 1, #over do
    ratios[round] = over[round] / under[round]
  end
  return ratios
end

return stats
