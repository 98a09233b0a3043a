--- The harness of the benches: its arithmetic, and a run of all rows with one short round. What they measure is not looked at.

local measure = require "bench.measure"
local plot = require "bench.plot"
local results_table = require "bench.table"
local sandbox = require "spec.support.sandbox"
local shell = require "spec.support.shell"
local stats = require "bench.stats"

local lua = os.getenv "TIDEMARK_LUA" or "lua5.4"

-- Raises unless each element that is opened is closed, in order.
local function check_xml(text)
  local open = {}
  for slash, name, rest in text:gmatch "<(/?)([%a]+)([^<>]*)>" do
    if slash == "/" then
      assert(table.remove(open) == name, "</" .. name .. "> closes nothing")
    elseif rest:sub(-1) ~= "/" then
      open[#open + 1] = name
    end
  end
  assert.equal(0, #open)
  assert.equal(1, select(2, text:gsub("<svg", "")))
  assert.falsy(text:find "nan" or text:find "inf")
end

describe("benches", function()
  teardown(sandbox.cleanup)

  it("tell the median and the quartiles, linear between neighbours", function()
    assert.same({ median = 5, low = 5, high = 5 }, stats.spread { 5 })
    assert.same({ median = 3, low = 2, high = 4 }, stats.spread { 5, 1, 4, 2, 3 })
    assert.same({ median = 2.5, low = 1.75, high = 3.25 }, stats.spread { 4, 3, 2, 1 })
  end)

  it("take the ratio within each round, not of the medians", function()
    assert.same({ 2, 2, 0.5 }, stats.ratios({ 2, 20, 4 }, { 1, 10, 8 }))
    assert.has_error(function()
      stats.ratios({ 1, 2 }, { 1 })
    end)
  end)

  it("judge by the median, the target included", function()
    assert.equal("met", measure.judge({ "<=", 1.7 }, 1.7))
    assert.equal("missed", measure.judge({ "<=", 1.7 }, 1.71))
    assert.equal("met", measure.judge({ ">=", 4 }, 4))
    assert.equal("missed", measure.judge({ ">=", 4 }, 3.99))
    assert.equal("", measure.judge(nil, 1))
  end)

  -- a worker that answers 1, 2, 3 ... times its argument, in sh
  local COUNTER = [[sh -c 'n=0; while read -r word factor; do n=$((n + 1)); echo $((n * factor)); done' counter]]

  it("ask all contenders in each round", function()
    local row = {
      what = "x | y",
      contenders = { { name = "ours", worker = "one", ask = "go 1" }, { name = "theirs", worker = "two", ask = "go 4" } },
      ratio = { "theirs", "ours" },
      target = { ">=", 4 },
      unit = "ns",
    }
    local workers = { one = { command = COUNTER }, two = { command = COUNTER } }
    local result = measure.run(row, workers, { rounds = 3, seconds = 0 })
    assert.same({ median = 4, low = 4, high = 4 }, result.figure) -- 2, 3, 4 and 8, 12, 16: the first round warms up
    assert.same({ median = 3, low = 2.5, high = 3.5 }, result.values.ours)
    local line = "| x \\| y | >= 4 x | 4.00 x (4.00..4.00) | ours 3.00, theirs 12.00 ns | met |\n"
    assert.equal(line, results_table.markdown({ result }):match "[^\n]*\n$")

    workers.two = { missing = "it is not installed" }
    local skipped = measure.run(row, workers, { rounds = 3, seconds = 0 })
    assert.equal("skipped: it is not installed", skipped.verdict)
    assert.equal("1 of 1 targets met.", results_table.summary { result })
    local missed = { row = { what = "z", target = { "<=", 1 } }, verdict = "missed" }
    assert.equal("1 of 2 targets met; missed: z; skipped: x | y.", results_table.summary { result, missed, skipped })
    workers.two = { command = "sh -c 'while read -r line; do echo skip: not here; done'" }
    assert.equal("skipped: not here", measure.run(row, workers, { rounds = 3, seconds = 0 }).verdict)
    workers.two = { command = "sh -c 'read -r line; echo no such case'" }
    assert.has_error(function()
      measure.run(row, workers, { rounds = 3, seconds = 0 })
    end)
  end)

  it("draw", function()
    local svg = plot.bars { title = "A < B & C", unit = "ns", groups = { { label = "call", bars = { { name = "x", value = 0.5 } } } } }
    check_xml(svg)
    assert.truthy(svg:find "A &lt; B &amp; C")
    local points = { { x = 1, y = 1 }, { x = 2, y = 1000 } }
    check_xml(plot.lines { title = "t", unit = "ns", over = "threads", series = { { name = "a", points = points } } })
  end)

  it("refuse what they do not know", function()
    for words, message in pairs {
      ["--rows nonsense"] = "no row has 'nonsense' in its name",
      ["--colour red"] = "no such option: --colour",
      ["--rounds"] = "--rounds needs a value",
      ["--rounds 0"] = "--rounds needs a number above 0",
      ["--report README"] = "README.md: needs the lines",
      ["--rounds many"] = "--rounds needs a number above 0",
    } do
      local ok, output = shell.run(("LUA_PATH_5_4='./?.lua' LUA_PATH_5_3='./?.lua' %s bench/run.lua %s 2>&1"):format(lua, words))
      assert.is_false(ok)
      assert.truthy(output:find("^bench: " .. message:gsub("%p", "%%%0")), output)
      assert.truthy(output:find("\nusage: make bench", 1, true), output)
    end
  end)

  it("run, each row once, and write a report around which the page stays", function()
    if os.getenv "LD_PRELOAD" then
      pending "benches are not built with a sanitizer"
      return
    elseif lua ~= "lua5.4" then
      pending "all rows are run with Lua 5.4" -- they take a minute
      return
    end
    local directory = sandbox.tempdir()
    shell.write(
      directory .. "/performance.md",
      "# Mine\n<!-- begin: written by make bench REPORT= -->\nold\n<!-- end -->\nand this\n"
    )
    local command = ("MAKEFLAGS= make -s bench LUA=%s REPORT='%s/performance'"):format(lua:match "[%d.]+$", directory)
    local ok, output = shell.run(command .. " BENCH_OPTIONS='--rounds 1 --seconds 0.00001'")
    assert(ok, output)
    local page = assert(io.open(directory .. "/performance.md")):read "a"
    assert.truthy(page:find "^# Mine\n" and page:find "\nand this\n$")
    assert.falsy(page:find "\nold\n")
    for _, text in ipairs { "state:advance(shard, n) against an empty C method", "C decode checkpoint bytes, shards: 65536" } do
      assert.truthy(page:find(text, 1, true))
    end
    local drawn = 0
    for path in page:gmatch "%]%((performance/[^)]*)%)" do
      check_xml(assert(io.open(directory .. "/" .. path)):read "a")
      drawn = drawn + 1
    end
    assert(drawn >= 2, drawn) -- all of them only where Rust is installed
  end)
end)
