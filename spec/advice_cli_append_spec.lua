--- The advice of the command line on appending, on options and on modules that are missing, typed as it is printed.
--- spec/advice_spec.lua has the table of all messages.

local advice = require "spec.support.advice"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"
local has_sqlite = pcall(require, "tidemark.sqlite")

local run, run_with, expect, taken = command_line.run, command_line.run_with, command_line.expect, advice.taken

local directory, log

before_each(function()
  directory = sandbox.tempdir()
  log = directory .. "/log"
end)
after_each(sandbox.cleanup)

-- A file of that text: its path, with a space in it.
local function file(name, text)
  local path = ("%s/the %s"):format(directory, name)
  command_line.write(path, text)
  return path
end

local function wait_for_head(seqno)
  command_line.wait_until(("head %d"):format(seqno), function()
    return command_line.head(log, 0) >= seqno
  end)
end

describe("advice on a line that cannot be appended:", function()
  local LINES = { '{"user":"ann","n":1}', '{"user":"zoe","n":2}', "no JSON", '{"user":"ann","n":4}', '{"user":"zoe","n":5}' }
  local MENDED = '{"user":"ann","n":3}'

  local function text_of(lines, first)
    return table.concat(lines, "\n", first) .. "\n"
  end

  -- The log must be as if all lines had been appended without a fault.
  local function assert_as_if(lines)
    local records = command_line.records(log)
    log = directory .. "/whole"
    expect(0, run_with(text_of(lines), "append", log, "--shards", "4", "--key", "user", "--batch", "2"))
    assert.same(command_line.records(log), records)
  end

  local function mended()
    return { LINES[1], LINES[2], MENDED, LINES[4], LINES[5] }
  end

  it("it is mended, and what is to be typed keeps --key, --batch and the files after it", function()
    local first, second = file("first", text_of { LINES[1] }), file("second", text_of(LINES))
    local third = file("third", text_of { LINES[1], LINES[2] })
    local result = run("append", log, "--shards", "4", "--key", "user", "--batch", "2", first, second, third)
    expect(1, result, ("line 3 of %s is no JSON object"):format(second), "; all lines before were appended, nothing after: ")
    local command = taken(result.err, "once it is mended, type: ([^\n]+)")
    command_line.write(second, text_of(mended()))
    expect(0, command_line.run_shell(command))
    local all = { LINES[1], table.unpack(mended()) }
    all[#all + 1], all[#all + 2] = LINES[1], LINES[2]
    assert_as_if(all)
  end)

  it("it is mended, and standard input among the files after it is read once the file is", function()
    local first, last = file("first", text_of(LINES)), file("last", text_of { LINES[5] })
    local result = run("append", log, "--shards", "4", "--key", "user", first, "-", last)
    expect(1, result, "line 3 of " .. first)
    command_line.write(first, text_of(mended()))
    expect(0, command_line.run_words({ "sh", "-c", taken(result.err, "once it is mended, type: ([^\n]+)") }, LINES[4] .. "\n"))
    local all = mended()
    all[#all + 1], all[#all + 2] = LINES[4], LINES[5]
    assert_as_if(all)
  end)

  it("of standard input, it is mended and appended with those after it", function()
    local options = { "append", log, "--shards", "4", "--key", "user" }
    local result = run_with(text_of(LINES), table.unpack(options))
    expect(1, result, "line 3 of standard input", "once it is mended, append it and those after it")
    local number = math.tointeger(tonumber(taken(result.err, "line (%d+) of")))
    expect(0, run_with(text_of(mended(), number), table.unpack(options)))
    assert_as_if(mended())
  end)

  it("that is too long, it is mended", function()
    local path = file("long", '{"user":"ann"}\n')
    assert(os.execute(("truncate -s 67110000 '%s'"):format(path)))
    local result = run("append", log, "--shards", "4", "--key", "user", path)
    expect(1, result, "line 2 of " .. path, "the most that a record can have; all lines before were appended, nothing after")
    command_line.write(path, '{"user":"ann"}\n{"user":"zoe"}\n')
    expect(0, command_line.run_shell(taken(result.err, "once it is mended, type: ([^\n]+)")))
    assert_as_if { '{"user":"ann"}', '{"user":"zoe"}' }
  end)

  it("that cannot be read, it is appended once it can be, with those after it", function()
    local result = command_line.run_shell(("%s < '%s'"):format(command_line.shell("append", log), directory))
    expect(1, result, "line 1 cannot be read", "once it can be read, append it and those after it")
    expect(0, run_with("a\nb\n", "append", log))
    assert.same({ [0] = { "a", "b" } }, command_line.records(log))
  end)
end)

describe("advice on a batch that could not be written:", function()
  local LOOK = "Once the cause is gone, type ([^\n]- </dev/null): if it says heads 0:N, the first (N[^\n]-) lines are there"

  -- Looks how many lines are there, as the message says, and appends those after them. All records must be there, each once.
  local function go_on(result, lines, before)
    local look, formula = taken(result.err, LOOK)
    local looked = command_line.run_shell(look)
    assert.equal(0, looked.code, looked.err)
    local head = taken(looked.out, "heads 0:(%d+)")
    local there = assert(load("return " .. formula:gsub("N", head)))()
    expect(0, run_with(table.concat(lines, "\n", there + 1) .. "\n", "append", log))
    local expected = table.move(lines, 1, #lines, #before + 1, { table.unpack(before) })
    assert.same({ [0] = expected }, command_line.records(log))
  end

  for what, before in pairs { ["an empty log"] = {}, ["a log that had records"] = { "old 1", "old 2", "old 3" } } do
    it("the lines after those that are there are appended, to " .. what, function()
      if #before > 0 then
        expect(0, run_with(table.concat(before, "\n") .. "\n", "append", log))
      end
      local sick = directory .. "/sick"
      local words = advice.sick_disk(directory, sick)
      table.move(command_line.words(nil, "append", log, "--batch", "2"), 1, 20, #words + 1, words)
      local child = sandbox.spawn(words, true)
      child:write "a\nb"
      wait_for_head(#before + 2)
      command_line.write(sick, "")
      child:write "c\nd"
      local result = command_line.finish(child)
      expect(1, result, "sync failed, close the log, look at the disk, and open it again", "(IO); of 4 lines read 2 were appended. ")
      assert(os.remove(sick))
      go_on(result, { "a", "b", "c", "d", "e" }, before)
    end)
  end

  it("the same when the heads were removed, where LOST says what is next", function()
    local child = command_line.start("append", log, "--batch", "1")
    child:write "a"
    wait_for_head(1)
    assert(os.remove(log .. "/heads"))
    child:write "b"
    local result = command_line.finish(child)
    expect(1, result, "was removed or replaced while this writer was open", "(REPLACED); of 2 lines read 1 were appended. ")
    local looked = command_line.run_shell((taken(result.err, LOOK)))
    expect(1, looked, "(LOST)")
    expect(0, run("append", log, table.unpack(advice.options(looked))))
    go_on(result, { "a", "b", "c" }, {})
  end)

  it("with several shards it says what the heads were, and where to look", function()
    expect(0, run_with("a\nb\n", "append", log, "--shards", "2"))
    local first, second = command_line.head(log, 0), command_line.head(log, 1)
    local child = command_line.start("append", log, "--batch", "1")
    child:write "c"
    command_line.wait_until("the third record", function()
      return command_line.head(log, 0) + command_line.head(log, 1) == 3
    end)
    assert(os.remove(log .. "/lock"))
    child:write "d"
    local result = command_line.finish(child)
    expect(1, result, ("(REPLACED); of 2 lines read 1 were appended, and the heads were 0:%d 1:%d before"):format(first, second))
    local looked = advice.type(result, "Once the cause is gone, type ([^\n]- </dev/null), which says what is there")
    expect(0, looked)
    taken(looked.out, "heads 0:%d+ 1:%d+")
    expect(0, run("verify", log))
  end)
end)

describe("advice on opening a log:", function()
  it("LOCKED: the other writer is ended", function()
    local child = command_line.start("append", log)
    child:write "a"
    wait_for_head(1)
    expect(1, run_with("b\n", "append", log), "(LOCKED): end the other one first")
    child:signal_with "sigterm"
    expect(0, command_line.finish(child))
    expect(0, run_with("b\n", "append", log))
    assert.same({ [0] = { "a", "b" } }, command_line.records(log))
  end)

  it("FENCED: --epoch is left out", function()
    expect(0, run_with("a\n", "append", log))
    expect(1, run_with("b\n", "append", log, "--epoch", "5"), "(FENCED): leave --epoch out")
    expect(0, run_with("b\n", "append", log))
    assert.same({ [0] = { "a", "b" } }, command_line.records(log))
  end)

  it("another number of shards: --shards is left out", function()
    expect(0, run_with("a\nb\n", "append", log, "--shards", "2"))
    local before = command_line.records(log)
    expect(1, run_with("c\n", "append", log, "--shards", "3"), "the log has 2 shards, and their number cannot change: leave --shards out")
    assert.same(before, command_line.records(log))
    expect(0, run_with("c\n", "append", log))
    expect(0, run("verify", log))
  end)

  it("GAP: verify says what is wrong", function()
    expect(0, run_with("a\n", "append", log))
    local said = sandbox.command [[
      arg = { [-1] = arg[-1], [0] = "bin/tidemark" }
      print(require "tidemark.cli.advice"("records 2..3 are missing", "GAP", { command = "follow", log = "LOG", state = "marks" }))
    ]]
    local result = command_line.run_words(said)
    expect(0, result)
    local command = taken(result.out, "%(GAP%): type (.+), which says what is wrong with the log")
    expect(0, command_line.run_shell((command:gsub("LOG", log))))
  end)
end)

describe("advice on options:", function()
  before_each(function()
    expect(0, run_with("a\n", "append", log))
  end)

  it("where the marks are kept, and what is done with the records", function()
    local result = run("follow", log, "--once")
    expect(2, result, "say where the marks are kept: --db FILE, or --state FILE with --exec CMD or --print")
    expect(0, run("follow", log, "--once", "--state", directory .. "/marks", "--print"))
    expect(0, run("follow", log, "--once", "--state", directory .. "/others", "--exec", "cat"))
    expect(2, run("follow", log, "--once", "--state", directory .. "/marks"), "say what is done with the records: --exec CMD or --print")
    expect(2, run("follow", log, "--once", "--db", directory .. "/db", "--print"), "--exec and --print go with --state")
    if has_sqlite then
      expect(0, run("follow", log, "--once", "--db", directory .. "/db"))
    end
  end)

  it("the follower's file is given, and the log with --log", function()
    local marks = directory .. "/marks"
    expect(0, run("follow", log, "--once", "--state", marks, "--print"))
    expect(1, run("status", log, "--log", log), "is a directory, and --log names another: give the follower's file and --log DIR")
    expect(0, run("status", marks, "--log", log))
    expect(1, run("status", directory .. "/none"), "(NOT_FOUND): give the directory of a log, a state file or a database of follow --db")
    expect(0, run("status", log))
    expect(0, run("status", marks))
    expect(2, run("status", "--watch", log), "what is shown stands before --watch")
  end)
end)

describe("advice of inspect:", function()
  it("after a sync that failed, all are ended and the disk is looked at", function()
    local marks = directory .. "/marks"
    expect(0, run_with("a\n", "append", log))
    local child = command_line.start("follow", log, "--state", marks, "--exec", "cat")
    child:wait_until(function()
      return child.unread ~= ""
    end, "did not follow", command_line.PATIENCE)
    command_line.patch(marks .. ".live", 84, "\1") -- docs/formats.md: where the live file says so
    local shown = run("inspect", marks)
    expect(0, shown)
    advice.said(shown.out, "poisoned: a sync has failed, end all who have it open and look at the disk")
    child:signal_with "sigterm"
    command_line.finish(child)
    expect(0, run("follow", log, "--state", marks, "--exec", "cat", "--once"))
    assert.is_nil(expect(0, run("inspect", marks)):find "poisoned")
  end)
end)

describe("advice on modules that are missing:", function()
  -- Runs the command line with modules that are not in these directories: what came of it.
  local function run_without(environment, ...)
    return command_line.run_shell(("%s %s"):format(environment, command_line.shell(...)))
  end

  it("those of other projects are installed by the name of their rock", function()
    local without = "LUA_PATH=/none LUA_CPATH=/none LUA_PATH_5_4=/none LUA_CPATH_5_4=/none LUA_PATH_5_3=/none LUA_CPATH_5_3=/none"
    local result = run_without(without, "--version")
    expect(1, result, "the module argparse is missing; type: ")
    local rock = taken(result.err, "type: luarocks %-%-lua%-version 5%.%d install (%S+)")
    assert.truthy(command_line.read("Makefile"):find("\nROCKS[^\n]* " .. rock), rock) -- what `make deps` installs
  end)

  it("those of tidemark are built", function()
    local build = directory .. "/built"
    local without = ("TIDEMARK_BUILD='%s' LUA_CPATH_5_4='/none;;' LUA_CPATH_5_3='/none;;'"):format(build)
    local result = run_without(without, "--version")
    expect(1, result, "the module tidemark.core is missing; type: make")
    local command = taken(result.err, "type: (make[^\n]+)"):gsub("^make", "make --no-print-directory CFLAGS=-O0")
    local built = command_line.run_shell("LD_PRELOAD= " .. command)
    assert.equal(0, built.code, built.err)
    expect(0, run_without("LD_PRELOAD= " .. without, "--version"))
    if has_sqlite then
      local module = ("%s/%s/tidemark/sqlite.so"):format(build, _VERSION:lower():gsub(" ", ""))
      assert(os.remove(module))
      without = "LD_PRELOAD= " .. without
      expect(0, run_with("a\n", "append", log))
      local follow = { "follow", log, "--db", directory .. "/db", "--once" }
      expect(0, run(table.unpack(follow)))
      result = run_without(without, table.unpack(follow))
      expect(1, result, "--db needs the module tidemark.sqlite: install libsqlite3-dev, then type make in the source directory of tidemark")
      result = run_without(without, "status", directory .. "/db")
      expect(1, result, "is a database, and to look into it needs the module tidemark.sqlite")
      built = command_line.run_shell("LD_PRELOAD= " .. command)
      assert.equal(0, built.code, built.err)
      expect(0, run_without(without, table.unpack(follow)))
      local rockspec = taken(result.err, "or there luarocks make (%S+)")
      assert(command_line.read(rockspec), rockspec)
    end
  end)
end)
