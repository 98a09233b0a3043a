--- A log had lost its end, the loss was accepted, and the next writer wrote other records with the same seqnos. When these were lost, too,
--- a salvage took the first ones from an old copy, and said that nothing was missing: the log knew their epoch. The same happened to a gap
--- in the middle, and with a copy that was made beside a writer with `sync = false`, whose last records had never been durable.

local ReplicationState = require "tidemark.replication_state"
local Wal = require "tidemark.wal"
local command_line = require "spec.support.command_line"
local sandbox = require "spec.support.sandbox"
local support = require "spec.support.salvage"

local run, expect = command_line.run, command_line.expect
local SHARDS = { 0, 1 }

describe("a salvage from a log of another history", function()
  local directory, log, copy, new

  before_each(function()
    directory = sandbox.tempdir()
    log, copy, new = directory .. "/log", directory .. "/copy", directory .. "/new"
  end)
  after_each(sandbox.cleanup)

  -- Opens a log as a new writer. Each batch is a segment of its own.
  local function open(path, options)
    options = options or {}
    options.shards, options.segment_bytes = SHARDS, 1
    return assert(Wal.open(path, options))
  end

  -- Writes batches to a shard as a new writer.
  local function write(shard, batches, options)
    local wal = open(log, options)
    for _, records in ipairs(batches) do
      assert(wal:append(shard, records))
    end
    assert(wal:close())
  end

  -- Removes the segment that begins with a record.
  local function lose(shard, first, path)
    assert(os.remove(("%s/%05d-%020d.wal"):format(path or log, shard, first)))
  end

  local function accept_loss(seqno, batches)
    write(0, batches, { accept_loss = { [0] = seqno } })
  end

  local function texts(path, shard)
    local result = {}
    for seqno, record in pairs(support.records(path)[shard]) do
      result[seqno] = record.record
    end
    return result
  end

  local function not_taken(first, last, path, shard)
    return ("%s: shard %d: %d..%d not taken: nothing in %s proves that these were its records"):format(
      path or copy, shard or 0, first, last, log)
  end

  -- Records 1 to 4 and old records 5 and 6, of which there is a copy. Then the latter are lost, and other ones are written.
  local function make_two_histories()
    write(0, { { "1", "2", "3", "4" }, { "old 5", "old 6" } })
    support.copy(log, copy)
    lose(0, 5)
    accept_loss(4, { { "new 5", "new 6" } })
  end

  it("takes none of its records at the end", function()
    make_two_histories()
    lose(0, 5)
    expect(3, run("salvage", log, new, "--from", copy), not_taken(5, 6), "shard 0: 5..6 missing")
    assert.same({ "1", "2", "3", "4" }, texts(new, 0))
    assert(os.execute(("rm -r '%s' && rm '%s/heads'"):format(new, copy)))
    expect(3, run("salvage", log, new, "--from", copy), not_taken(5, 6), "shard 0: 5..6 missing")
  end)

  it("takes none of its records in a gap", function()
    write(0, { { "1", "2", "3", "4" }, { "old 5" } }) -- no record 6, which would contradict the batch of record 7
    support.copy(log, copy)
    lose(0, 5)
    accept_loss(4, { { "new 5", "new 6" } })
    write(0, { { "7" } })
    lose(0, 5)
    expect(3, run("salvage", log, new, "--from", copy), not_taken(5, 5), "shard 0: 5..6 missing")
    assert.same({ "1", "2", "3", "4", "7" }, texts(new, 0))
  end)

  it("takes none of its records where a shard has no segment left", function()
    make_two_histories()
    write(1, { { "another shard" } })
    lose(0, 1)
    lose(0, 5)
    expect(3, run("salvage", log, new, "--from", copy), not_taken(1, 6), "shard 0: 1..6 missing")
    assert.same({}, texts(new, 0))
    assert.same({ "another shard" }, texts(new, 1))
  end)

  it("says so where nothing else is left", function()
    make_two_histories()
    lose(0, 1)
    lose(0, 5)
    expect(1, run("salvage", log, new, "--from", copy), "(LOST)", not_taken(1, 6))
  end)

  -- A copy of a log that has lost its power and, with it, record 5, which had not been durable. The copy was made before.
  local function make_unsynced_copy()
    local lost = directory .. "/lost"
    local wal = open(lost, { sync = false })
    assert(wal:append(0, { "1", "2", "3", "4" }))
    assert(wal:sync())
    support.copy(lost, log)
    assert(wal:append(0, { "never durable" }))
    support.copy(lost, copy)
    assert(wal:close())
    assert.equal(4, assert(Wal.heads(copy)):applied_seqno(0))
  end

  it("takes no record that had not been durable and was written again", function()
    make_unsynced_copy()
    write(0, { { "5", "6" } })
    support.flip(log, 0, 5, 0)
    expect(3, run("salvage", log, new, "--from", copy), not_taken(5, 5), "shard 0: 5..6 missing")
    assert.same({ "1", "2", "3", "4" }, texts(new, 0))
  end)

  it("takes no record above the head of its own, until a writer has made it durable", function()
    local wal = open(log)
    assert(wal:append(1, { "another shard" }))
    assert(wal:append(0, { "1", "2" }))
    support.copy(log, copy) -- its heads are those of the opening
    assert(wal:close())
    lose(0, 1)
    local text = ("%s: shard 0: 1..2 not taken: above its own head, 0"):format(copy)
    expect(3, run("salvage", log, new, "--from", copy), text, "shard 0: 1..2 missing")
    assert(os.execute(("rm -r '%s'"):format(new)))
    open(copy):close()
    expect(0, run("salvage", log, new, "--from", copy))
    assert.same({ "1", "2" }, texts(new, 0))
  end)

  it("does not trust heads of the log that are older than its segments", function()
    make_two_histories()
    write(1, { { "another shard" } })
    lose(0, 5)
    assert(os.execute(("cp '%s/heads' '%s/heads' && rm '%s/heads.live'"):format(copy, log, log)))
    expect(3, run("salvage", log, new, "--from", copy), not_taken(5, 6), "shard 0: 5..6 missing")
  end)

  it("does not trust heads of the log with a damaged slot, which may have named a later writer", function()
    make_unsynced_copy()
    open(copy):close() -- makes record 5 durable there
    local wal = open(log)
    assert(wal:append(0, { "5", "6" }))
    local crashed = directory .. "/crashed"
    support.copy(log, crashed)
    assert(wal:close())
    log = crashed
    lose(0, 5)
    local newer = assert(ReplicationState.inspect(log .. "/heads")).checkpoint
    command_line.patch(log .. "/heads", 4096 + newer * 16777216 + 70, "\xff\xff\xff")
    local result = run("salvage", log, new, "--from", copy)
    assert.truthy(result.err:find(not_taken(5, 5), 1, true), result.err)
    assert.same({ "1", "2", "3", "4" }, texts(new, 0))
  end)

  -- ---- what is proved ----

  it("takes the records that the first batch of the next writer follows, and none after them", function()
    write(0, { { "1", "2" }, { "3", "4" }, { "old 5" } })
    support.copy(log, copy)
    lose(0, 5)
    accept_loss(4, { { "new 5" } })
    lose(0, 3)
    local out = expect(0, run("salvage", log, new, "--from", copy))
    assert.truthy(out:find("shard 0: 3..4 taken from " .. copy, 1, true), out)
    assert.same({ "1", "2", "3", "4", "new 5" }, texts(new, 0))
  end)

  it("takes what is proved before the record that contradicts it", function()
    write(0, { { "1", "2" }, { "3", "4" }, { "old 5" } })
    support.copy(log, copy)
    lose(0, 5)
    accept_loss(4, { { "new 5" } })
    lose(0, 3)
    support.flip(log, 0, 5, -1) -- only its header is whole
    local result = run("salvage", log, new, "--from", copy)
    expect(3, result, copy .. ": shard 0: not used for records from 5 on", "(DIVERGED)", "shard 0: 5..5 missing")
    assert.falsy(result.err:find("not taken", 1, true), result.err) -- once is enough
    assert.same({ "1", "2", "3", "4" }, texts(new, 0))
  end)

  it("takes the records of the last writer from a copy without heads", function()
    write(0, { { "1", "2" } })
    write(0, { { "3" }, { "4" } })
    support.copy(log, copy)
    assert(os.remove(copy .. "/heads"))
    lose(0, 3)
    lose(0, 4)
    expect(0, run("salvage", log, new, "--from", copy))
    assert.same({ "1", "2", "3", "4" }, texts(new, 0))
  end)

  it("takes a shard without segments from a copy that was opened last by the same writer, and from no older one", function()
    local older = directory .. "/older"
    write(0, { { "1", "2" } })
    support.copy(log, older)
    write(1, { { "another shard" } })
    support.copy(log, copy)
    lose(0, 1)
    expect(3, run("salvage", log, new, "--from", older), not_taken(1, 2, older), "shard 0: 1..2 missing")
    assert(os.execute(("rm -r '%s'"):format(new)))
    local result = run("salvage", log, new, "--from", older, copy)
    expect(0, result)
    assert.falsy(result.err:find("not taken", 1, true), result.err)
    assert.same({ "1", "2" }, texts(new, 0))
  end)

  it("takes a record of which only the header is whole from a copy of an earlier time", function()
    write(0, { { "1", "2" }, { "3", "4" } })
    support.copy(log, copy)
    write(1, { { "another shard" } })
    support.flip(log, 0, 3, -1)
    expect(0, run("salvage", log, new, "--from", copy))
    assert.same({ "1", "2", "3", "4" }, texts(new, 0))
  end)

  it("does not take a replica for a copy that was opened last by the same writer", function()
    write(0, { { "1", "2" } })
    write(1, { { "another shard" } })
    support.copy(log, copy)
    local heads = assert(ReplicationState.open(copy .. "/heads", nil, { create = false }))
    local note = heads:note(0)
    assert(heads:checkpoint { [0] = note:sub(1, 24) .. ("<i8"):pack(0) .. note:sub(33) }) -- no epoch was begun there
    heads:close()
    lose(0, 1)
    expect(3, run("salvage", log, new, "--from", copy), not_taken(1, 2))
  end)

  it("takes from one log what another one proves", function()
    local second = directory .. "/second"
    write(0, { { "1", "2" }, { "3", "4" } })
    write(0, { { "5", "6" } })
    write(0, { { "7" } })
    support.copy(log, copy)
    support.copy(log, second)
    lose(0, 3, copy)
    lose(0, 5, second)
    lose(0, 7, second)
    for first = 3, 7, 2 do
      lose(0, first)
    end
    assert(os.remove(copy .. "/heads") and os.remove(second .. "/heads"))
    expect(3, run("salvage", log, new, "--from", second), not_taken(3, 4, second))
    assert(os.execute(("rm -r '%s'"):format(new)))
    expect(0, run("salvage", log, new, "--from", second, copy))
    assert.same({ "1", "2", "3", "4", "5", "6", "7" }, texts(new, 0))
  end)

  it("says what it does not take after the end of a log that has lost nothing", function()
    write(0, { { "1", "2" } })
    support.copy(log, copy)
    local wal = open(copy)
    assert(wal:append(0, { "3" }))
    assert(wal:close())
    expect(0, run("salvage", log, new, "--from", copy), not_taken(3, 3))
    assert.same({ "1", "2" }, texts(new, 0))
  end)
end)
