--- Writes results down: plots as DIRECTORY/*.svg, and the table and the plots as Markdown in DIRECTORY.md, in place of what stands
--- there between two lines of comment. What is around them stays, so that a page can say what bounds the figures.

local plot = require "bench.plot"
local results_table = require "bench.table"

local report = {}

local BEGIN, END = "<!-- begin: written by make bench REPORT= -->", "<!-- end -->"

local function write(path, text)
  local file = assert(io.open(path, "w"))
  assert(file:write(text))
  assert(file:close())
end

local function read_line(command)
  local pipe = assert(io.popen(command .. " 2>/dev/null"))
  local line = pipe:read "l"
  pipe:close()
  return line
end

-- Charts in the order of their first row, each with the results that it shows.
local function charts_of(results)
  local charts, by_title = {}, {}
  for _, result in ipairs(results) do
    local title = result.row.chart
    if title and not result.skipped then
      if not by_title[title] then
        by_title[title] = { title = title, unit = result.row.unit, over = title:match "by (%l+)$", results = {} }
        charts[#charts + 1] = by_title[title]
      end
      table.insert(by_title[title].results, result)
    end
  end
  return charts
end

---@param chart table of charts_of
---@return string svg
local function draw_lines(chart)
  local series, by_name = {}, {}
  for _, result in ipairs(chart.results) do
    for _, contender in ipairs(result.row.contenders) do
      local name = contender.name
      if not by_name[name] then
        by_name[name] = { name = name, points = {} }
        series[#series + 1] = by_name[name]
      end
      table.insert(by_name[name].points, { x = result.row.x, y = result.values[name].median })
    end
  end
  return plot.lines { title = chart.title, unit = chart.unit, over = chart.over, series = series }
end

---@param chart table of charts_of
---@return string svg
local function draw_bars(chart)
  local groups, by_label = {}, {}
  for _, result in ipairs(chart.results) do
    local label = result.row.label or result.row.what
    local group = by_label[label]
    if not group then
      group = { label = label, bars = {}, has = {} }
      by_label[label] = group
      groups[#groups + 1] = group
    end
    for _, contender in ipairs(result.row.contenders) do
      if not group.has[contender.name] then
        group.has[contender.name] = true
        table.insert(group.bars, { name = contender.name, value = result.values[contender.name].median })
      end
    end
  end
  return plot.bars { title = chart.title, unit = chart.unit, groups = groups }
end

-- On what it was measured.
local function machine()
  local parts = {
    read_line "sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo",
    (read_line "getconf _NPROCESSORS_ONLN" or "?") .. " processors",
    read_line "uname -sm",
    "cc " .. (read_line "cc -dumpfullversion" or "?"),
    (read_line((os.getenv "TIDEMARK_LUA" or "lua5.4") .. " -v") or ""):match "Lua [%d.]+",
    read_line "/usr/bin/rustc --version | cut -d ' ' -f 1,2" or read_line "rustc --version | cut -d ' ' -f 1,2",
  }
  return table.concat(parts, ", ")
end

local function markdown(results, charts, directory, options)
  local parts = {
    ("%d rounds of %g s a contender, or of several single operations where each syncs; on %s.\n"):format(
      options.rounds, options.seconds, machine()),
    results_table.NOTE:gsub("\n", "  \n"):gsub("([<>]=)", "`%1`") .. "\n",
    results_table.summary(results) .. "\n",
  }
  local group
  local function flush()
    if group then
      parts[#parts + 1] = ("### %s\n\n%s"):format(group[1].group, results_table.markdown(group))
    end
  end
  for _, result in ipairs(results) do
    if not group or group[1].group ~= result.group then
      flush()
      group = {}
    end
    group[#group + 1] = result
  end
  flush()
  parts[#parts + 1] = #charts > 0 and "### Plots\n" or nil
  for _, chart in ipairs(charts) do
    parts[#parts + 1] = ("![%s](%s/%s.svg)"):format(chart.title, directory:match "[^/]+$", chart.file)
  end
  local instructions = io.open "bench/instructions.txt"
  if instructions then
    parts[#parts + 1] = ("\n### Instructions\n\n```text\n%s```"):format(instructions:read "a")
    instructions:close()
  end
  return table.concat(parts, "\n") .. "\n"
end

-- The page of a directory: its path, its text, and where the lines of comment stand in that.
local function read_page(directory)
  local path = directory:gsub("/+$", "") .. ".md"
  local file = io.open(path)
  local text = file and file:read "a" or ("# Performance\n\n%s\n%s\n"):format(BEGIN, END)
  if file then
    file:close()
  end
  local _, first = text:find(BEGIN, 1, true)
  return path, text, first, first and text:find(END, first, true)
end

--- Why a report cannot be written there, or nil: to be asked before anything is measured.
---@param directory string
---@return string? problem
function report.check(directory)
  local path, _, _, last = read_page(directory)
  return not last and ("%s: needs the lines '%s' and '%s', between which the report goes"):format(path, BEGIN, END) or nil
end

---@param results Result[]
---@param directory string
---@param options { rounds: integer, seconds: number }
function report.write(results, directory, options)
  directory = directory:gsub("/+$", "")
  assert(os.execute(("mkdir -p '%s'"):format(directory)))
  local charts = charts_of(results)
  for _, chart in ipairs(charts) do
    chart.file = chart.title:lower():gsub("[^%w]+", "-")
    write(("%s/%s.svg"):format(directory, chart.file), chart.results[1].row.x and draw_lines(chart) or draw_bars(chart))
  end
  local path, text, first, last = read_page(directory)
  write(path, text:sub(1, first) .. "\n\n" .. markdown(results, charts, directory, options) .. "\n" .. text:sub(last))
end

return report
