--- The advice of the command line on a log, typed as it is printed: append, verify, and whoever reads a log that is damaged.
--- spec/advice_spec.lua has the table of all messages.

local advice = require "spec.support.advice"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"

local run, run_with, expect = command_line.run, command_line.run_with, command_line.expect

local OPENING = "type (%S+.- append %S+ </dev/null), which says how to go on"

describe("advice on a log:", function()
  local directory, log, copy

  before_each(function()
    directory = sandbox.tempdir()
    log, copy = directory .. "/log", directory .. "/copy"
  end)
  after_each(sandbox.cleanup)

  local function sh(command, ...)
    assert(os.execute(command:format(...)))
  end

  local function append(input, ...)
    return expect(0, run_with(input, "append", log, ...))
  end

  local function keep_copy()
    sh("rm -rf '%s' && cp -a '%s' '%s'", copy, log, copy)
  end

  -- "1=a 2=b" of a shard.
  local function records(shard)
    local list = {}
    for seqno, record in ipairs(command_line.records(log)[shard or 0] or {}) do
      list[seqno] = ("%d=%s"):format(seqno, record)
    end
    return table.concat(list, " ")
  end

  local function segment(first_seqno, shard)
    return ("%05d-%020d.wal"):format(shard or 0, first_seqno)
  end

  -- The commands that read the log, each with words that end it.
  local function readers()
    return { { "verify", log }, { "follow", log, "--state", directory .. "/marks", "--print", "--once" } }
  end

  -- ---- heads ----

  -- Opening the log for writing says LOST; its options are added, and all records are there.
  local function go_on_from(result, ...)
    result = advice.type(result, OPENING)
    expect(1, result, "(LOST)")
    local words = table.move({ ... }, 1, select("#", ...), 1, {})
    for _, word in ipairs(advice.options(result)) do
      words[#words + 1] = word
    end
    expect(0, run_with("c\n", "append", log, table.unpack(words)))
    assert.equal("1=a 2=b 3=c", records())
    for _, words_of in ipairs(readers()) do
      expect(0, run(table.unpack(words_of)))
    end
  end

  for what, damage in pairs {
    ["cut off"] = function()
      sh(": > '%s/heads'; rm '%s/heads.live'", log, log)
    end,
    ["of other bytes"] = function()
      command_line.write(log .. "/heads", "other bytes\n")
    end,
    ["with a damaged header"] = function()
      command_line.patch(log .. "/heads", 20, "X")
    end,
  } do
    it("CORRUPT: heads " .. what, function()
      append "a\nb\n"
      keep_copy()
      for number, words in ipairs {
        { "verify", log },
        { "follow", log, "--state", directory .. "/marks", "--print", "--once" },
        { "status", log },
        { "inspect", log .. "/heads" },
      } do
        sh("rm -rf '%s' && cp -a '%s' '%s'", log, copy, log)
        damage()
        local result = run(table.unpack(words))
        expect(1, result, "(CORRUPT): nothing was changed: type ")
        os.remove(directory .. "/marks")
        go_on_from(result, number == 1 and "--shards=1" or nil)
      end
    end)
  end

  it("LOST: segments without heads", function()
    append "a\nb\n"
    for _, words in ipairs { { "follow", log, "--state", directory .. "/marks", "--print" }, { "status", log } } do
      keep_copy()
      assert(os.remove(log .. "/heads"))
      local result = run(table.unpack(words))
      expect(1, result, "there are segments but no file heads", "(LOST): restore the missing files")
      go_on_from(result)
      sh("rm -rf '%s' '%s/marks'* && mv '%s' '%s'", log, directory, copy, log)
    end
  end)

  it("NOT_FOUND: the directory of a log is given, which append makes", function()
    for _, command in ipairs { "follow", "status", "verify" } do
      local more = command == "follow" and { "--state", directory .. "/marks", "--print", "--once" } or {}
      local result = run(command, log, table.unpack(more))
      expect(1, result, "(NOT_FOUND): give the directory of a log")
      local program = command == "status" and command_line.shell() -- it takes files as well
        or advice.taken(result.err, "give the directory of a log, which (.-) append makes")
      expect(0, command_line.run_shell(("echo a | %s append '%s'"):format(program, log)))
      expect(0, run(command, log, table.unpack(more)))
      assert.equal("1=a", records())
      sh("rm -r '%s'", log)
    end
  end)

  it("NOT_FOUND: a log that was not made to its end", function()
    sh("mkdir '%s'", log)
    require("tidemark.replication_state").open(log .. "/heads", { 0, 1 }):close()
    local words = readers()[2]
    local result = run(table.unpack(words))
    expect(1, result, "there is no log in it yet", "try again, or open it for writing (NOT_FOUND): type ")
    expect(0, advice.type(result, "%(NOT_FOUND%): type ([^\n]+)"))
    expect(0, run(table.unpack(words)))
    assert.same({ [0] = {}, [1] = {} }, command_line.records(log))
  end)

  -- ---- segments ----

  -- What salvage makes of the log, as it is typed, with the copy or without one. Then it is the log.
  local function salvage(result, with_copy)
    expect(1, result, "(CORRUPT): nothing was changed. End the log's writer, then type: ", "--from COPY if a copy or a replica")
    local more = with_copy and (("--from '%s'"):format(copy)) or ""
    local saved = advice.type(result, "then type: ([^\n]- salvage [^\n]-) %(add ", more)
    expect(with_copy and 0 or 3, saved)
    local made = advice.taken(saved.out, "saved to ([^\n]-): ")
    sh("mv '%s' '%s.damaged' && mv '%s' '%s'", log, log, made, log)
    expect(0, run("verify", log))
    return saved
  end

  -- What follow says is only the first step.
  local function step(result)
    expect(3, result, "(CORRUPT): nothing was changed: type ")
    return advice.type(result, "type ([^\n]+ verify [^\n]+), which says what to do")
  end

  local function follow()
    return run("follow", log, "--state", directory .. "/marks", "--print", "--once")
  end

  for what, damage in pairs {
    ["is damaged"] = function(path)
      command_line.patch(path, 68, "X")
    end,
    ["is missing between others"] = os.remove,
  } do
    it("CORRUPT: a segment " .. what .. ", and a copy has it", function()
      append "a\n"
      append "b\n"
      append "c\n"
      keep_copy()
      damage(log .. "/" .. segment(2))
      local result = follow()
      assert.equal("a\n", result.out)
      salvage(step(result), true)
      assert.equal("b\nc\n", expect(0, follow()))
      append "d\n"
      assert.equal("1=a 2=b 3=c 4=d", records())
      assert.equal("d\n", expect(0, follow()))
    end)

    it("CORRUPT: a segment " .. what .. ", and nobody has it", function()
      append "a\n"
      append "b\n"
      append "c\n"
      damage(log .. "/" .. segment(2))
      local saved = salvage(step(follow()), false)
      advice.said(saved.err, "is a NEW log", "Followers of the old log must begin again with the new one (FOREIGN)")
      assert.equal("1=a 2=c", records())
      local result = follow()
      expect(3, result, "(FOREIGN)")
      advice.taken(result.err, "a new file, (%-%-state) FILE, begins with record 1")
      sh("mv '%s/marks' '%s/marks.old' && rm '%s/marks.live'", directory, directory, directory)
      assert.equal("a\nc\n", expect(0, follow()))
    end)
  end

  it("CORRUPT: append says the same of a segment that it reads", function()
    append "a\n"
    append "b\n"
    keep_copy()
    command_line.patch(log .. "/" .. segment(2), 10, "XX")
    salvage(run("append", log), true)
    append "c\n"
    assert.equal("1=a 2=b 3=c", records())
  end)

  it("FOREIGN: a segment of another log is moved away, and the right one restored", function()
    append "a\n"
    append "b\n"
    keep_copy()
    expect(0, run_with("x\ny\n", "append", directory .. "/other"))
    sh("mkdir '%s/away' && cp '%s/other/%s' '%s/%s'", directory, directory, segment(1), log, segment(2))
    for _, words in ipairs { { "append", log }, table.unpack(readers()) } do
      local result = run(table.unpack(words))
      expect(words[1] == "follow" and 3 or 1, result, "(FOREIGN): move the file that is of another log out of " .. log)
      os.remove(directory .. "/marks")
    end
    local result = run("verify", log)
    local file = advice.taken(result.err, "tidemark: ([^\n]-%.wal): offset")
    sh("mv '%s' '%s/away'", file, directory)
    expect(1, advice.type(result, OPENING), "(LOST)") -- it was not restored yet
    sh("cp '%s/%s' '%s'", copy, file:match "[^/]*$", file)
    expect(0, advice.type(result, OPENING))
    append "c\n"
    assert.equal("1=a 2=b 3=c", records())
  end)

  it("FOREIGN: heads of another log are moved away, without a copy to restore", function()
    append "a\nb\n"
    expect(0, run_with("x\n", "append", directory .. "/other"))
    sh("cp '%s/other/heads' '%s/heads'; rm '%s/heads.live'; mkdir '%s/away'", directory, log, log, directory)
    local result = run("append", log)
    expect(1, result, "(FOREIGN)", "this one or, if it is heads that is wrong, heads")
    sh("mv '%s/heads' '%s/away'", log, directory)
    go_on_from(result)
  end)

  -- ---- a loss ----

  it("LOST: the missing files are restored from a copy", function()
    append("a\nb\n", "--shards", "2", "--batch", "1")
    append "a\nb\n"
    keep_copy()
    local before = command_line.records(log)
    sh("rm '%s'/00001-*.wal", log)
    for _, words in ipairs { { "append", log }, { "verify", log } } do
      local result = run(table.unpack(words))
      expect(1, result, "(LOST)", words[1] == "verify" and "restore the missing files from a copy of the log"
        or "Restore the rest from a copy, if there is one")
    end
    local words = command_line.words(advice.FAST_CLOCK, table.unpack(readers()[2]))
    expect(3, command_line.run_words(words), "(LOST): restore the missing files from a copy of the log")
    sh("cd '%s' && for file in *.wal; do test -e '%s'/$file || cp $file '%s'; done", copy, log, log)
    expect(0, run("verify", log))
    expect(0, run("append", log))
    expect(0, run(table.unpack(readers()[2])))
    assert.same(before, command_line.records(log))
  end)

  it("LOST: without a copy, the options are added", function()
    append("a\nb\nc\nd\n", "--shards", "2", "--batch", "1")
    local before = command_line.records(log)
    append("a\nb\n", "--batch", "1")
    local last = { [0] = segment(#before[0] + 1, 0), segment(#before[1] + 1, 1) }
    for shard = 0, 1 do
      assert(os.remove(log .. "/" .. last[shard]))
    end
    local verified = run("verify", log)
    expect(1, verified, "(LOST)", "Without one, type ")
    local followed = run(table.unpack(readers()[2])) -- which finds that a segment ends too early
    expect(3, followed, "(CORRUPT)")
    expect(1, advice.type(followed, "type ([^\n]+ verify [^\n]+), which says what to do"), "(LOST)", "Without one, type ")
    local result = advice.type(verified, OPENING)
    expect(1, result, "(LOST)")
    local words = advice.options(result)
    assert.equal(4, #words)
    expect(0, run_with("a\n", "append", log, table.unpack(words)))
    local now = command_line.records(log)
    for shard = 0, 1 do
      assert.same(before[shard], { table.unpack(now[shard], 1, #before[shard]) })
    end
    assert.equal(#before[0] + #before[1] + 1, #now[0] + #now[1])
    expect(0, run("verify", log))
    expect(0, run(table.unpack(readers()[2])))
  end)

  it("LOST: without heads a log keeps its empty shards if --shards says how many it had", function()
    append("a\na\n", "--shards", "3", "--batch", "1")
    local before = command_line.records(log)
    assert(os.remove(log .. "/heads"))
    local result = run("append", log)
    advice.said(result.err, "and --shards N if it had more shards")
    local words = { "--shards", "3" }
    while result.code == 1 do -- again for the shards that it did not know of
      for _, word in ipairs(advice.options(result)) do
        words[#words + 1] = word
      end
      assert(#words < 12, result.err)
      result = run("append", log, table.unpack(words))
    end
    expect(0, result)
    assert.same(before, command_line.records(log))
  end)

  it("LOST in more shards than fit: the options are added again and again", function()
    append("", "--shards", "40")
    local lines = {}
    for number = 1, 2000 do
      lines[number] = ("%d\n"):format(number)
    end
    append(table.concat(lines))
    sh("rm '%s'/*.wal", log)
    local words, rounds = {}, 0
    local result = run("append", log)
    while result.code == 1 do
      for _, word in ipairs(advice.options(result)) do
        words[#words + 1] = word
      end
      rounds = rounds + 1
      result = run("append", log, table.unpack(words))
    end
    assert(rounds > 1)
    expect(0, result)
    append "a\n"
    expect(0, run("verify", log))
  end)

  -- ---- versions ----

  for what, damage in pairs {
    -- the first batch, as another version would begin it: its header's CRC is right
    ["a segment"] = function(bytes)
      local crc32c = require "spec.support.crc32c"
      local header = bytes:sub(1, 4) .. "\2" .. bytes:sub(6, 60)
      return segment(1), header .. ("<I4"):pack(crc32c(header)) .. bytes:sub(65)
    end,
  } do
    it("UNSUPPORTED: " .. what .. " of another version, so a new log is begun in another directory", function()
      append "a\nb\n"
      local name, bytes = damage(command_line.read(log .. "/" .. segment(1)))
      command_line.write(log .. "/" .. name, bytes)
      for _, words in ipairs { { "append", log }, table.unpack(readers()) } do
        local result = command_line.run_words(command_line.words(advice.FAST_CLOCK, table.unpack(words)))
        expect(words[1] == "follow" and 3 or 1, result,
          "(UNSUPPORTED): nothing was changed. Use the version of tidemark that wrote it, or begin a new log in another directory")
      end
      assert.equal(bytes, command_line.read(log .. "/" .. name))
      log = directory .. "/another"
      append "a\nb\n"
      assert.equal("1=a 2=b", records())
    end)
  end

  it("UNSUPPORTED: heads of another version, so a new log is begun in another directory", function()
    append "a\nb\n"
    local heads = assert(require("tidemark.replication_state").open(log .. "/heads", { 0 }))
    assert(heads:checkpoint { [0] = ("\1"):rep(12) }) -- as version 1 had them
    heads:close()
    for _, words in ipairs { { "append", log }, table.unpack(readers()) } do
      expect(1, run(table.unpack(words)), "has version 1", "(UNSUPPORTED): nothing was changed. Use the version of tidemark that wrote it, "
        .. "or begin a new log in another directory")
    end
    log = directory .. "/another"
    append "a\nb\n"
    assert.equal("1=a 2=b", records())
  end)
end)
