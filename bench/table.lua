--- Results as a table: of text for a terminal, of Markdown for a page.

local results_table = {}

local LARGER = { ns = "us", us = "ms" }

-- Four digits that count, in plain notation.
local function number(value)
  local size = math.abs(value)
  if size >= 1000 then
    return ("%.0f"):format(value)
  end
  return ("%." .. (size >= 100 and 1 or 2) .. "f"):format(value)
end

---@param result Result
---@return string
function results_table.figure(result)
  if result.skipped then
    return ""
  end
  local figure, unit = result.figure, result.row.ratio and " x" or " " .. result.row.unit
  return ("%s%s (%s..%s)"):format(number(figure.median), unit, number(figure.low), number(figure.high))
end

--- What the figures mean. The first contender of a row is ours.
results_table.NOTE = [[
<= and (less): ours divided by the other's, less is better.
>= and (more): the other's divided by ours: how many times as fast, or as small, ours is.
Ours is the first of "medians of each". A target that is missed is no error.]]

---@param result Result
---@return string
function results_table.target(result)
  local target, ratio = result.row.target, result.row.ratio
  if not target and ratio then
    return ratio[1] == result.row.contenders[1].name and "(less)" or "(more)"
  end
  return target and ("%s %g%s"):format(target[1], target[2], result.row.ratio and " x" or " " .. result.row.unit) or ""
end

-- Each contender's median, in a unit in which all are short.
local function medians(result)
  local parts, unit, scale, least = {}, result.row.unit, 1, math.huge
  for _, value in pairs(result.values) do
    least = math.min(least, value.median)
  end
  while LARGER[unit] and least / scale >= 10000 and least < math.huge do
    unit, scale = LARGER[unit], scale * 1000
  end
  for _, contender in ipairs(result.row.contenders) do
    local value = result.values[contender.name]
    if value then
      parts[#parts + 1] = ("%s %s"):format(contender.name, number(value.median / scale))
    end
  end
  return #parts > 0 and table.concat(parts, ", ") .. " " .. unit or ""
end

local HEAD = { "what", "target", "figure: median (quartiles)", "medians of each", "verdict" }

---@param result Result
---@return string[] cells as HEAD has them
local function cells(result)
  return { result.row.what, results_table.target(result), results_table.figure(result), medians(result), result.verdict }
end

--- One line of text for a terminal.
---@param result Result
---@return string
function results_table.line(result)
  local cell = cells(result)
  return (("%-84s %9s  %-24s %-7s %s"):format(cell[1], cell[2], cell[3], cell[5], cell[4]):gsub(" +$", ""))
end

--- The line above these.
function results_table.head()
  return ("%-84s %9s  %-24s %-7s %s"):format(HEAD[1], HEAD[2], HEAD[3], HEAD[5], HEAD[4])
end

--- How many targets are met, which are not, and what was skipped.
---@param results Result[]
---@return string
function results_table.summary(results)
  local count, missed, skipped = 0, {}, {}
  for _, result in ipairs(results) do
    count = count + (result.row.target and not result.skipped and 1 or 0)
    if result.skipped then
      skipped[#skipped + 1] = result.row.what
    elseif result.verdict == "missed" then
      missed[#missed + 1] = result.row.what
    end
  end
  local function list(what, names)
    return #names > 0 and ("; %s: %s"):format(what, table.concat(names, "; ")) or ""
  end
  return ("%d of %d targets met%s%s."):format(count - #missed, count, list("missed", missed), list("skipped", skipped))
end

---@param results Result[]
---@return string
function results_table.markdown(results)
  local lines = { "| " .. table.concat(HEAD, " | ") .. " |", "|" .. ("---|"):rep(#HEAD) }
  for _, result in ipairs(results) do
    local cell = cells(result)
    for i, text in ipairs(cell) do
      cell[i] = text:gsub("|", "\\|")
    end
    lines[#lines + 1] = "| " .. table.concat(cell, " | ") .. " |"
  end
  return table.concat(lines, "\n") .. "\n"
end

return results_table
