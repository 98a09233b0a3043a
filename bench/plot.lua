--- Plots as SVG text: bars per contender, lines over shards or threads. Their colours follow the reader's light or dark scheme.

local plot = {}

local WIDTH, MARGIN, LINE = 760, 16, 22 -- pixels
local CLASSES = 6
local LETTER = 7.2 -- pixels, of a text at the most

-- One class for each contender of a plot, in the order of their coming; the first one is tidemark.
local STYLE = [[
<style>
text { font: 13px system-ui, "DejaVu Sans", sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 15px }
.small { font-size: 12px; fill: #59636e }
.back { fill: #ffffff }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.c1 { fill: #0b62d0; stroke: #0b62d0 } .c2 { fill: #c2600a; stroke: #c2600a }
.c3 { fill: #6e7781; stroke: #6e7781 } .c4 { fill: #7a3ec8; stroke: #7a3ec8 }
.c5 { fill: #1a7f37; stroke: #1a7f37 } .c6 { fill: #bf3989; stroke: #bf3989 }
.name { stroke: none }
.line { fill: none; stroke-width: 2.5 } .bar { stroke: none }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .small { fill: #9198a1 }
  .back { fill: #0d1117 }
  .grid { stroke: #3d444d }
  .c1 { fill: #58a6ff; stroke: #58a6ff } .c2 { fill: #f0993e; stroke: #f0993e }
  .c3 { fill: #9ea7b3; stroke: #9ea7b3 } .c4 { fill: #c297ff; stroke: #c297ff }
  .c5 { fill: #56d364; stroke: #56d364 } .c6 { fill: #ff80c8; stroke: #ff80c8 }
  .name { stroke: none }
  .line { fill: none }
}
</style>
]]

local function escape(text)
  return (text:gsub("[&<>]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;" }))
end

-- Collects elements and gives the document.
local function canvas(title, height)
  local parts = {
    ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '):format(WIDTH, height),
    ('viewBox="0 0 %d %d" role="img">\n'):format(WIDTH, height),
    ("<title>%s</title>\n%s"):format(escape(title), STYLE),
    ('<rect class="back" width="%d" height="%d" rx="6"/>\n'):format(WIDTH, height),
  }
  local self = {}
  function self.add(text, ...)
    parts[#parts + 1] = text:format(...) .. "\n"
  end
  function self.text(x, y, class, anchor, text)
    self.add('<text x="%.1f" y="%.1f" class="%s" text-anchor="%s">%s</text>', x, y, class, anchor, escape(text))
  end
  function self.finish()
    return table.concat(parts) .. "</svg>\n"
  end
  self.text(MARGIN, 28, "title", "start", title)
  return self
end

-- 1234567 as "1.23 M".
local function short(value)
  for _, scale in ipairs { { 1e9, " G" }, { 1e6, " M" }, { 1e3, " k" } } do
    if value >= scale[1] then
      return ("%.3g%s"):format(value / scale[1], scale[2])
    end
  end
  return ("%.3g"):format(value)
end

-- Classes by name, tidemark's first; and the names in that order.
local function assign(names)
  local classes, order = {}, {}
  for _, name in ipairs { "tidemark", table.unpack(names) } do
    if not classes[name] then
      order[#order + 1] = name
      classes[name] = "c" .. math.min(#order, CLASSES)
    end
  end
  return classes, order
end

-- How much room the longest of the texts takes.
local function room(texts)
  local most = 0
  for _, text in ipairs(texts) do
    most = math.max(most, #text * LETTER)
  end
  return most
end

-- Where the names stand in the legend, from the left in as many lines as they need, the first one at `y`; and where it ends.
local function place_legend(order, y)
  local places, x = {}, MARGIN
  for i, name in ipairs(order) do
    local width = 40 + LETTER * #name
    if x > MARGIN and x + width > WIDTH then
      x, y = MARGIN, y + LINE
    end
    places[i], x = { name = name, x = x, y = y }, x + width
  end
  return places, y + LINE
end

---@param chart { title: string, unit: string, groups: { label: string, bars: { name: string, value: number }[] }[] }
---@return string svg
function plot.bars(chart)
  local RIGHT, THICK, GAP, TOP = 80, 15, 14, 42
  local names, labels, most, count = {}, {}, 0, 0
  for _, group in ipairs(chart.groups) do
    labels[#labels + 1] = group.label
    for _, bar in ipairs(group.bars) do
      names[#names + 1] = bar.name
      most, count = math.max(most, bar.value), count + 1
    end
  end
  local left = MARGIN + 10 + room(labels)
  local classes, order = assign(names)
  local legend, y = place_legend(order, TOP)
  local svg = canvas(("%s: %s, less is better"):format(chart.title, chart.unit), y + 14 + count * (THICK + 2) + #chart.groups * GAP)
  for _, place in ipairs(legend) do
    svg.add('<rect class="bar %s" x="%.1f" y="%d" width="12" height="12"/>', classes[place.name], place.x, place.y)
    svg.text(place.x + 18, place.y + 11, "small", "start", place.name)
  end
  y = y + 8
  for _, group in ipairs(chart.groups) do
    svg.text(left - 10, y + #group.bars * (THICK + 2) / 2 + 4, "label", "end", group.label)
    for _, bar in ipairs(group.bars) do
      local length = math.max(1, bar.value / most * (WIDTH - left - RIGHT))
      svg.add('<rect class="bar %s" x="%.1f" y="%.1f" width="%.1f" height="%d"/>', classes[bar.name], left, y, length, THICK)
      svg.text(left + length + 6, y + THICK - 3, "small", "start", short(bar.value))
      y = y + THICK + 2
    end
    y = y + GAP
  end
  return svg.finish()
end

-- The axes: a logarithmic y in whole decades, x in equal steps, for its values double or count up.
local function axes(chart)
  local low, high, xs, seen = math.huge, 0, {}, {}
  for _, series in ipairs(chart.series) do
    for _, point in ipairs(series.points) do
      low, high = math.min(low, point.y), math.max(high, point.y)
      if not seen[point.x] then
        seen[point.x] = true
        xs[#xs + 1] = point.x
      end
    end
  end
  table.sort(xs)
  local first = math.floor(math.log(low, 10))
  return xs, first, math.max(first + 1, math.ceil(math.log(high, 10)))
end

---@param chart { title: string, unit: string, over: string, series: { name: string, points: { x: number, y: number }[] }[] }
---@return string svg
function plot.lines(chart)
  local LEFT, TOP, HEIGHT = 70, 52, 340
  local BOTTOM = HEIGHT - 52
  local xs, first, last = axes(chart)
  local names, labels = {}, {}
  for i, series in ipairs(chart.series) do
    names[i] = series.name
    labels[i] = ("%s %s"):format(series.name, short(series.points[#series.points].y))
  end
  local right = MARGIN + room(labels)
  local svg = canvas(("%s: %s, less is better, logarithmic"):format(chart.title, chart.unit), HEIGHT)
  local function at_x(x)
    local whole = math.log(xs[#xs] / xs[1])
    local part = chart.over == "threads" and (x - xs[1]) / (xs[#xs] - xs[1]) or math.log(x / xs[1]) / whole
    return LEFT + 10 + (#xs > 1 and part or 0) * (WIDTH - LEFT - right - 20)
  end
  local function at_y(y)
    return BOTTOM - (math.log(y, 10) - first) / (last - first) * (BOTTOM - TOP)
  end
  for decade = first, last do
    local y = at_y(10 ^ decade)
    svg.add('<line class="grid" x1="%d" y1="%.1f" x2="%.1f" y2="%.1f"/>', LEFT, y, WIDTH - right, y)
    svg.text(LEFT - 8, y + 4, "small", "end", short(10 ^ decade))
  end
  for _, x in ipairs(xs) do
    svg.text(at_x(x), BOTTOM + 20, "small", "middle", ("%d"):format(x))
  end
  svg.text((LEFT + WIDTH - right) / 2, BOTTOM + 40, "small", "middle", chart.over)
  local classes = assign(names)
  local ends = {} -- where a line ends, its name
  for number, series in ipairs(chart.series) do
    local points, class = {}, classes[series.name]
    for i, point in ipairs(series.points) do
      points[i] = ("%.1f,%.1f"):format(at_x(point.x), at_y(point.y))
      svg.add('<circle class="%s" cx="%.1f" cy="%.1f" r="3.5"/>', class, at_x(point.x), at_y(point.y))
    end
    svg.add('<polyline class="line %s" points="%s"/>', class, table.concat(points, " "))
    local final = series.points[#series.points]
    ends[number] = { x = at_x(final.x), y = at_y(final.y), name = labels[number], class = class }
  end
  table.sort(ends, function(a, b)
    return a.y < b.y
  end)
  for i, each in ipairs(ends) do
    each.y = i > 1 and math.max(each.y, ends[i - 1].y + LINE - 4) or each.y
    svg.text(each.x + 10, each.y + 4, "name " .. each.class, "start", each.name)
  end
  return svg.finish()
end

return plot
