--- tidemark append, as a user runs it.

local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"
local Wal = require "tidemark.wal"

local run, run_with, write = command_line.run, command_line.run_with, command_line.write

describe("tidemark append", function()
  local directory, log

  before_each(function()
    directory = sandbox.tempdir()
    log = directory .. "/log"
  end)
  after_each(sandbox.cleanup)

  -- A file of that text: its path.
  local function file(name, text)
    write(directory .. "/" .. name, text)
    return directory .. "/" .. name
  end

  local function assert_done(result)
    assert.same({ 0, "" }, { result.code, result.err })
    return result.out
  end

  local function assert_refused(result, ...)
    command_line.expect(1, result, ...)
  end

  it("appends the lines of files, one record a line, in order", function()
    local first, second = file("first", "one\n\ntwo\n"), file("second", "three\nlast, without line end")
    local out = assert_done(run("append", log, first, second))
    assert.equal("5 records appended in 1 batch; heads 0:5\n", out)
    assert.same({ [0] = { "one", "", "two", "three", "last, without line end" } }, command_line.records(log))
  end)

  it("begins the epoch that is given, if it is above the last one", function()
    assert_done(run_with("one\n", "append", log, "--epoch", "999"))
    assert_done(run_with("two\n", "append", log, "--epoch", "1000"))
    local reader = assert(Wal.reader(log, 0, 1))
    assert.equal(1000, assert(reader:next(0)).epoch)
    reader:close()
    assert_refused(run_with("three\n", "append", log, "--epoch", "1000"),
      ("epoch %s is not above the last one, %s"):format(Wal.epoch_text(1000), Wal.epoch_text(1000)), "FENCED")
    for _, wrong in ipairs { "0", "1.5", "x", "4611686018427387904" } do
      command_line.expect(2, run("append", log, "--epoch", wrong), "from 1 to 4611686018427387903")
    end
    local most = "4611686018427387903"
    assert_done(run_with("three\n", "append", log, "--epoch", most))
    assert_done(run_with("four\n", "append", log)) -- the largest epoch does not close the log
    assert.same({ [0] = { "one", "two", "three", "four" } }, command_line.records(log))
  end)

  -- Runs the command again with the options that the message says.
  local function follow_advice(result, input, ...)
    local options = {}
    for mark in result.err:gmatch "%-%-accept%-loss (%d+:%d+)" do
      options[#options + 1], options[#options + 2] = "--accept-loss", mark
    end
    assert(#options > 0, result.err)
    for i = 1, select("#", ...) do
      options[#options + 1] = (select(i, ...))
    end
    return run_with(input, "append", log, table.unpack(options))
  end

  it("goes on without lost records with the options that it names", function()
    local all = file("all", "a\nb\nc\nd\n")
    assert_done(run("append", log, "--shards", "2", "--batch", "1", all))
    local before = command_line.records(log)
    assert_done(run_with("e\n", "append", log, "--batch", "1"))
    local lost = command_line.records(log)
    local shard = #lost[0] > #before[0] and 0 or 1
    assert(os.remove(("%s/%05d-%020d.wal"):format(log, shard, #before[shard] + 1)))
    local result = run_with("f\n", "append", log)
    local ends = ("%d:%d"):format(shard, #before[shard])
    assert_refused(result, "(LOST)", ("shard %d ends at seqno %d, but %d had been durable"):format(shard, #before[shard], #lost[shard]),
      "--accept-loss " .. ends)
    assert_refused(run_with("f\n", "append", log, "--accept-loss", ("%d:%d"):format(shard, #lost[shard])), "(LOST)", ends)
    result = follow_advice(result, "f\n")
    assert.equal(0, result.code)
    assert.truthy(result.err:find("recovered: shard " .. shard .. ": continues after seqno", 1, true), result.err)
    local now = command_line.records(log)
    assert.equal(#before[0] + #before[1] + 1, #now[0] + #now[1])
    for id = 0, 1 do
      assert.same(before[id], { table.unpack(now[id], 1, #before[id]) })
    end
    assert_done(run_with("g\n", "append", log, "--accept-loss", ends)) -- old numbers, and nothing is lost
  end)

  it("takes a log without heads for one that may have lost records, and changes nothing", function()
    assert_done(run_with("a\nb\nc\n", "append", log, "--shards", "2", "--batch", "1"))
    local before = command_line.records(log)
    for _, damage in ipairs { "rm '%s/heads' '%s/heads.live'", "rm '%s/heads'; : '%s'", "echo damaged > '%s/heads'; rm '%s/heads.live'" } do
      assert(os.execute(damage:format(log, log)))
      local names = command_line.list(log)
      local result = run_with("d\n", "append", log)
      assert_refused(result, "(LOST)", "nobody knows whether records are missing", "and --shards N if it had more shards")
      assert.equal(names:gsub(" ?lock", ""), (command_line.list(log):gsub(" ?lock", "")))
      assert.equal(0, follow_advice(result, "", "--shards", "2").code)
      assert.same(before, command_line.records(log))
    end
    assert.equal(0, run("verify", log).code)
  end)

  for _, wrong in ipairs { "x", "0", "0:", ":1", "65536:1", "0:99999999999999999999", "-1:0" } do
    it("refuses --accept-loss " .. wrong, function()
      command_line.expect(2, run("append", log, "--accept-loss=" .. wrong), "SHARD:SEQNO expected")
      assert.equal("", command_line.list(directory))
    end)
  end

  it("takes every byte but the line end", function()
    local bytes = {}
    for byte = 0, 255 do
      bytes[#bytes + 1] = byte ~= 10 and string.char(byte) or nil
    end
    local all = table.concat(bytes)
    assert_done(run_with(all .. "\r\n\0\n", "append", log))
    assert.same({ [0] = { all .. "\r", "\0" } }, command_line.records(log))
  end)

  it("takes - for standard input, among files", function()
    local result = run_with("b\n", "append", log, file("first", "a\n"), "-", file("last", "c\n"))
    assert_done(result)
    assert.same({ [0] = { "a", "b", "c" } }, command_line.records(log))
    assert_refused(run_with("nope\n", "append", log, "--key", "k", "-"), "line 1 of standard input", "append it and those after it")
  end)

  it("makes an empty log from no input", function()
    assert.equal("0 records appended in 0 batches; heads 0:0 1:0\n", assert_done(run("append", log, "--shards", "2")))
    assert.same({ [0] = {}, [1] = {} }, command_line.records(log))
  end)

  it("writes batches of --batch records at most", function()
    local out = assert_done(run_with("1\n2\n3\n4\n5\n", "append", log, "--batch", "2"))
    assert.equal("5 records appended in 3 batches; heads 0:5\n", out)
  end)

  it("keeps a batch small when its records are large", function()
    local record = ("x"):rep(700000)
    local out = assert_done(run_with((record .. "\n"):rep(3), "append", log))
    assert.equal("3 records appended in 3 batches; heads 0:3\n", out)
  end)

  it("reads long lines from files and pipes", function()
    local long, longer = ("0123456789abcdef"):rep(65536), ("fedcba9876543210"):rep(65536 * 4)
    local text = long .. "\nshort\n" .. longer
    assert_done(run_with(text, "append", log))
    assert_done(run("append", log, file("long", text)))
    local records = command_line.records(log)[0]
    assert.equal(6, #records)
    assert.is_true(records[1] == long and records[3] == longer and records[4] == long and records[6] == longer)
  end)

  it("takes a record as large as a batch can be, and names the line of a larger one", function()
    local most = 67108864 - 68
    local name = file("most", "small\n")
    assert(os.execute(("truncate -s %d '%s'"):format(6 + most, name)))
    assert_done(run("append", log, name))
    assert.equal(2, command_line.head(log, 0))
    assert(os.execute(("truncate -s %d '%s'"):format(6 + most + 1, name)))
    assert_refused(run("append", log, name), "line 2 of " .. name, "more than 67,108,796 bytes")
    assert.equal(3, command_line.head(log, 0)) -- the small one, again
  end)

  -- ---- shards ----

  it("chooses the shard by FNV-1a of the record", function()
    -- the test vectors of the algorithm's authors: "" 811c9dc5, "a" e40c292c, "foobar" bf9cf968
    assert_done(run_with("a\nfoobar\n\na\n", "append", log, "--shards", "1000"))
    local records = command_line.records(log)
    assert.same({ "a", "a" }, records[0xe40c292c % 1000])
    assert.same({ "foobar" }, records[0xbf9cf968 % 1000])
    assert.same({ "" }, records[0x811c9dc5 % 1000])
  end)

  it("chooses it by the field of --key, the same one in every run", function()
    local lines = { '{"k":"a","n":1}', '{"n":2,"k":"\\u0061"}', '{"k":"foobar"}', '{"k":""}' }
    assert_done(run_with(table.concat(lines, "\n"), "append", log, "--shards", "1000", "--key", "k"))
    assert_done(run_with('{"k":"a","n":3}\n', "append", log, "--key", "k"))
    local records = command_line.records(log)
    assert.same({ lines[1], lines[2], '{"k":"a","n":3}' }, records[0xe40c292c % 1000])
    assert.same({ lines[3] }, records[0xbf9cf968 % 1000])
    assert.same({ lines[4] }, records[0x811c9dc5 % 1000])
  end)

  it("takes equal numbers as the same key, and true as 'true'", function()
    local lines = '{"k":12}\n{"k":12.0}\n{"k":1.2e1}\n{"k":0}\n{"k":-0}\n{"k":-0.0}\n{"k":true}\n{"k":"true"}\n{"k":"12"}\n'
    assert_done(run_with(lines, "append", log, "--shards", "1000", "--key", "k"))
    local counts = {}
    for _, records in pairs(command_line.records(log)) do
      if #records > 0 then
        counts[#counts + 1] = #records
      end
    end
    table.sort(counts)
    assert.same({ 2, 3, 4 }, counts)
  end)

  it("keeps the number of shards that a log has", function()
    assert_done(run_with("a\nb\n", "append", log, "--shards", "3"))
    local before = command_line.records(log)
    assert_refused(run_with("c\n", "append", log, "--shards", "4"), log, "has 3 shards", "leave --shards out")
    assert.same(before, command_line.records(log))
    assert_done(run_with("c\n", "append", log, "--shards", "3"))
    assert_done(run_with("d\n", "append", log))
    assert.truthy(command_line.records(log)[2])
  end)

  -- ---- bad input ----

  for what, line in pairs {
    ["no JSON"] = "nope",
    ["JSON that is cut off"] = '{"k":1',
    ["an empty line"] = "",
    ["a number"] = "42",
    ["null"] = "null",
    ["a record without the field"] = '{"other":1}',
    ["a null in the field"] = '{"k":null}',
    ["an object in the field"] = '{"k":{}}',
    ["a number that is none"] = '{"k":NaN}',
  } do
    it("names the line of " .. what .. " and appends those before it, nothing after", function()
      local good = { '{"k":"a"}', '{"k":"b"}' }
      local text = ("%s\n%s\n%s\n%s\n"):format(good[1], good[2], line, '{"k":"c"}')
      local name = file("lines", text)
      assert_refused(run("append", log, "--key", "k", name, file("next", good[1])), "line 3 of " .. name, "before")
      assert.same({ [0] = good }, command_line.records(log))
      assert_refused(run_with(text, "append", log, "--key", "k"), "line 3 of standard input")
      assert.equal(4, command_line.head(log, 0))
    end)
  end

  it("makes nothing when a file is missing or a directory", function()
    local good = file("good", "a\n")
    assert_refused(run("append", log, good, directory .. "/missing"), directory .. "/missing", "no such file")
    assert_refused(run("append", log, good, directory), directory .. ": is a directory")
    assert.equal("good", command_line.list(directory))
    assert_refused(run("append", directory .. "/no/log", good), directory .. "/no/log")
    assert.equal("good", command_line.list(directory))
  end)

  it("tells that the input cannot be read", function()
    local command = command_line.shell("append", log)
    assert_refused(command_line.run_shell(command .. " < '" .. directory .. "'"), "standard input: line 1 cannot be read", "EISDIR")
    assert_refused(command_line.run_shell(command .. " <&-"), "standard input: line 1 cannot be read", "EBADF")
    assert.same({ [0] = {} }, command_line.records(log))
  end)

  it("does not write into the log what belongs to closed streams", function()
    local command = command_line.shell("append", log)
    assert.equal(1, command_line.run_shell("echo a | " .. command .. " >&-").code)
    assert.equal(0, command_line.run_shell("echo b | " .. command .. " 2>&-").code)
    assert_refused(command_line.run_shell("echo c | " .. command .. " >/dev/full"), "standard output", "No space left")
    assert.same({ [0] = { "a", "b", "c" } }, command_line.records(log))
    assert.equal(0, run("verify", log).code)
    assert.equal(0, run("inspect", log .. "/heads").code)
  end)

  -- ---- live input ----

  local function wait_for_head(shard, seqno)
    command_line.wait_until(("head %d of shard %d"):format(seqno, shard), function()
      return command_line.head(log, shard) >= seqno
    end)
  end

  it("appends what a live pipe has without waiting for a full batch", function()
    local child = command_line.start("append", log, "--batch", "1000")
    for seqno = 1, 3 do
      child:write("line " .. seqno)
      wait_for_head(0, seqno)
    end
    child:write "last"
    child:close_input()
    assert_done(command_line.finish(child))
    assert.same({ [0] = { "line 1", "line 2", "line 3", "last" } }, command_line.records(log))
  end)

  it("does not let a rare shard's record wait while others come", function()
    local child = command_line.start("append", log, "--shards", "1000", "--batch", "100000")
    child:write "a"
    local others = 0
    command_line.wait_until("the rare record", function()
      child:write "foobar"
      others = others + 1
      return command_line.head(log, 0xe40c292c % 1000) == 1
    end)
    child:close_input()
    assert_done(command_line.finish(child))
    assert.equal(others, command_line.head(log, 0xbf9cf968 % 1000))
  end)

  for _, signal in ipairs { "sigint", "sigterm" } do
    it("ends well on " .. signal .. " while it waits, with what it has read appended", function()
      local child = command_line.start("append", log, "--batch", "2")
      child.input:write "a\nb\npending\nno whole li"
      wait_for_head(0, 2)
      child:signal_with(signal)
      assert.equal("3 records appended in 2 batches; heads 0:3\n", assert_done(command_line.finish(child)))
      assert.same({ [0] = { "a", "b", "pending" } }, command_line.records(log))
    end)
  end

  it("does not hang on a FIFO that nobody writes to, and tells where a signal ended it", function()
    local fifo = directory .. "/fifo"
    assert(os.execute("mkfifo '" .. fifo .. "'"))
    local child = command_line.start("append", log, file("first", "a\n"), fifo)
    command_line.wait_until("the log", function()
      return command_line.read(log .. "/heads.live")
    end)
    wait_for_head(0, 1)
    local writer = assert(io.open(fifo, "r+"))
    writer:write "b\n"
    writer:flush()
    wait_for_head(0, 2)
    child:signal_with "sigterm"
    local out = assert_done(command_line.finish(child))
    writer:close()
    assert.equal(("2 records appended in 2 batches; heads 0:2; ended by a signal at line 1 of %s\n"):format(fifo), out)
  end)

  it("reads a FIFO to its end", function()
    local fifo = directory .. "/fifo"
    assert(os.execute("mkfifo '" .. fifo .. "'"))
    local result = command_line.run_shell(("(echo a; echo b) > '%s' & %s"):format(fifo, command_line.shell("append", log, fifo)))
    assert_done(result)
    assert.same({ [0] = { "a", "b" } }, command_line.records(log))
  end)

  it("refuses a second writer, says what to do, and the first goes on", function()
    local child = command_line.start("append", log)
    child:write "one"
    wait_for_head(0, 1)
    assert_refused(run_with("intruder\n", "append", log), log, "another writer", "(LOCKED)", "end the other one first")
    child:write "two"
    child:close_input()
    assert_done(command_line.finish(child))
    assert.same({ [0] = { "one", "two" } }, command_line.records(log))
  end)

  it("tells of a writer that was killed, and goes on", function()
    local child = command_line.start("append", log)
    child:write "one"
    wait_for_head(0, 1)
    child:kill()
    assert.equal("signal 9", command_line.finish(child).code)
    local result = run_with("two\n", "append", log)
    assert.equal(0, result.code)
    assert.same({ [0] = { "one", "two" } }, command_line.records(log))
  end)

  it("stops at the first batch that cannot be written", function()
    -- no file may grow beyond 34 MiB: the heads fit, the segment does not
    local name = file("long", (("x"):rep(1048575) .. "\n"):rep(40))
    local result = command_line.run_shell("trap '' XFSZ; ulimit -f 69632; exec " .. command_line.shell("append", log, name))
    assert_refused(result, "File too large", "lines read")
    local head = command_line.head(log, 0)
    assert.truthy(result.err:find((" %d were appended"):format(head), 1, true), result.err)
    assert.equal(0, run("verify", log).code)
  end)
end)
