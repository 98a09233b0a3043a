--- The advice in the messages of the log, as a Lua program gets them, followed to the letter. spec/advice_spec.lua has the table of all
--- messages.

local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local advice = require "spec.support.advice"
local log = require "spec.support.log"
local sandbox = require "spec.support.sandbox"

local refused, said, taken = advice.refused, advice.said, advice.taken

describe("advice on a log", function()
  local directory

  before_each(function()
    directory = log.new()
  end)
  after_each(function()
    log.close()
    sandbox.cleanup()
  end)

  local function sh(command, ...)
    assert(os.execute(command:format(...)))
  end

  local function records(shard)
    return table.concat((log.drain(assert(log.read(shard or 0)))), " ")
  end

  -- What LOST says that is to be accepted: {[shard] = seqno}.
  local function ends_of(message)
    local marks = {}
    for shard, seqno in taken(message, "he log now ends at([%d: ]+)"):gmatch "(%d+):(%d+)" do
      marks[math.tointeger(tonumber(shard))] = math.tointeger(tonumber(seqno))
    end
    return marks
  end

  local function write(...)
    local wal = assert(Wal.open(directory, { shards = { 0 } }))
    assert(wal:append(0, { ... }))
    assert(wal:close())
  end

  it("REPLACED: a writer whose heads were removed is closed and opened again, and LOST says what is next", function()
    local wal = assert(log.open { shards = { 0 } })
    assert(wal:append(0, { "a", "b" }))
    assert(os.remove(directory .. "/heads"))
    said(refused("REPLACED", wal:append(0, { "c" })), directory .. "/heads", "was removed or replaced while this writer was open",
      "close it and open it again")
    wal:close()
    local marks = ends_of(said(refused("LOST", log.open { shards = { 0 } }), "To go on without it, accept the loss"))
    wal = assert(log.open { shards = { 0 }, accept_loss = marks })
    assert(wal:append(0, { "d" }))
    assert.truthy(records():find "^1=a 2=b .*=d$", records()) -- "c" may be there
  end)

  it("REPLACED: a writer whose lock was removed is closed and opened again", function()
    local wal = assert(log.open { shards = { 0 } })
    assert(wal:append(0, { "a", "b" }))
    assert(os.remove(directory .. "/lock"))
    said(refused("REPLACED", wal:append(0, { "c" })), directory .. "/lock", "close it and open it again")
    wal:close()
    wal = assert(log.open())
    assert(wal:append(0, { "d" }))
    assert.truthy(records():find "^1=a 2=b .*=d$", records())
  end)

  it("REPLACED: a writer whose heads somebody has advanced is closed and opened again, and LOST says what is next", function()
    local wal = assert(log.open { shards = { 0 } })
    assert(wal:append(0, { "a" }))
    local heads = assert(ReplicationState.open(directory .. "/heads", {}))
    heads:advance(0, 3)
    said(refused("REPLACED", wal:append(0, { "b" })), directory, "another writer has the log: close it and open it again")
    wal:close()
    heads:close()
    local ends = taken(refused("LOST", log.open()), "he log now ends at 0:(%d+)")
    wal = assert(log.open { accept_loss = { [0] = math.tointeger(tonumber(ends)) } })
    assert(wal:append(0, { "e" }))
    assert.equal("1=a 2=e", records())
  end)

  it("FORKED: the child closes it, and only the parent writes", function()
    local ok, output = sandbox.lua([[
      local directory, cpath = ...
      package.cpath = cpath .. ";" .. package.cpath
      local Wal = require "tidemark.wal"
      local wal = assert(Wal.open(directory, { shards = { 0 } }))
      assert(wal:append(0, { "a" }))
      local code, is_child = require("fork")()
      if is_child then
        local _, message, code = wal:append(0, { "child" })
        assert(code == "FORKED" and message:find("close it here, only the parent may write it", 1, true), message)
        wal:close()
        os.exit(0, true)
      end
      assert(code == 0)
      assert(wal:append(0, { "b" }))
      assert(wal:close())
    ]], directory, advice.fork_module(sandbox.tempdir()))
    assert(ok, output)
    assert.equal("1=a 2=b", records())
  end)

  it("IO and POISONED: it is closed, the disk is mended, and it is opened again", function()
    local aside = sandbox.tempdir()
    local output = advice.run_sick(advice.sick_disk(aside, aside .. "/sick"), [[
      local directory, sick = ...
      local Wal = require "tidemark.wal"
      local wal = assert(Wal.open(directory, { shards = { 0 } }))
      assert(wal:append(0, { "a" }))
      io.open(sick, "w"):close()
      print(select(2, wal:append(0, { "b" })))
      os.remove(sick) -- whoever looks at the disk mends it
      print(select(2, wal:append(0, { "c" })))
      wal:close()
      wal = assert(Wal.open(directory))
      assert(wal:append(0, { "d" }))
      assert(wal:close())
      print "done"
    ]], directory, aside .. "/sick")
    said(output, "sync failed, close the log, look at the disk, and open it again: Input/output error",
      "an earlier sync, or cutting off a failed write, failed: close the log, look at the disk, and open it again")
    local now = records()
    assert.truthy(now == "1=a 2=d" or now == "1=a 2=b 3=d", now)
  end)

  it("LOST: the rest is restored from a copy", function()
    write "a"
    write "b"
    local aside = sandbox.tempdir()
    sh("cp -a '%s' '%s/copy'", directory, aside)
    assert(os.remove(directory .. "/" .. log.segment_name(0, 2)))
    said(refused("LOST", log.open()), "shard 0 ends at seqno 1, but 2 had been durable", "Restore the rest from a copy, if there is one")
    sh("cp -a '%s/copy/%s' '%s'", aside, log.segment_name(0, 2), directory)
    write "c"
    assert.equal("1=a 2=b 3=c", records())
  end)

  it("LOST: without a copy, the loss is accepted", function()
    write "a"
    write "b"
    assert(os.remove(directory .. "/" .. log.segment_name(0, 2)))
    local marks = ends_of(said(refused("LOST", log.open()), "To go on without it, accept the loss"))
    assert.same({ [0] = 1 }, marks)
    local wal = assert(log.open { accept_loss = marks })
    assert(wal:append(0, { "c" }))
    assert.equal("1=a 2=c", records())
    assert(Wal.verify(directory))
  end)

  it("LOST in more shards than a message can list: the others are named when these are accepted", function()
    local shards = {}
    for shard = 0, 63 do
      shards[#shards + 1] = shard
    end
    local wal = assert(Wal.open(directory, { shards = shards }))
    for _, shard in ipairs(shards) do
      assert(wal:append(shard, { "a" }))
    end
    assert(wal:close())
    sh("rm '%s'/*.wal", directory)
    local accepted, rounds = {}, 0
    repeat
      local message, code
      wal, message, code = log.open { accept_loss = accepted }
      if not wal then
        assert.equal("LOST", code)
        for shard, seqno in pairs(ends_of(message)) do
          assert.is_nil(accepted[shard])
          accepted[shard] = seqno
        end
        rounds = rounds + 1
      end
    until wal
    assert(rounds > 1)
    assert(wal:append(63, { "b" }))
    assert.equal("1=b", records(63))
  end)

  it("FENCED: the epoch is left out, or is a higher one", function()
    write "a"
    said(refused("FENCED", log.open { epoch = 5 }), "is not above the last one", "leave the epoch out, or give a higher one")
    local wal = assert(log.open())
    assert(wal:append(0, { "b" }))
    local higher = wal:epoch() + 1
    assert(wal:close())
    wal = assert(log.open { epoch = higher })
    assert(wal:append(0, { "c" }))
    assert.equal("1=a 2=b 3=c", records())
  end)

  it("REPLACED: a reader whose log was replaced gives way to a new one", function()
    write "a"
    local source = log.keep(assert(Wal.source(directory)))
    local reader = log.keep(assert(source:subscribe(0, 0)))
    assert.equal(1, assert(reader:next(0)).last_seqno)
    local aside = sandbox.tempdir()
    sh("cp -a '%s' '%s/copy' && mv '%s' '%s/old' && mv '%s/copy' '%s'", directory, aside, directory, aside, aside, directory)
    write("b", "c")
    local message, code
    repeat
      local batch
      batch, message, code = reader:next(1)
      assert(not batch)
    until code ~= "TIMEOUT"
    assert.equal("REPLACED", code, message)
    said(message, "was replaced since it was opened: open a new reader")
    assert.same({ "2=b", "3=c" }, (log.drain(log.keep(assert(source:subscribe(0, 1))))))
  end)

  it("a batch that is too long is appended in parts", function()
    local wal = assert(log.open { shards = { 0 } })
    local record = ("x"):rep(23 << 20)
    local ok, message = pcall(wal.append, wal, 0, { record, record, record })
    assert.is_false(ok)
    said(message, "a batch longer than 64 MiB: append it in parts")
    assert(wal:append(0, { record, record }))
    assert(wal:append(0, { record }))
    assert.equal(3, wal:head(0))
  end)

  it("NOT_FOUND: a log that is not made to its end is tried again, or opened for writing", function()
    sh("mkdir '%s'", directory)
    require("tidemark.replication_state").open(directory .. "/heads", { 0 }):close()
    said(refused("NOT_FOUND", Wal.source(directory)), directory, "try again, or open it for writing")
    said(refused("NOT_FOUND", Wal.source(directory)), "there is no log in it yet")
    write "a"
    assert(log.keep(assert(Wal.source(directory))):log_id())
    assert.equal("1=a", records())
  end)
end)
