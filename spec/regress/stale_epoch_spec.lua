--- FollowerDb:epoch gave an epoch that it kept in memory, after another process had reset the shard and applied another history up to the
--- same record. A new follower on the first handle said that all was well.

local Follower = require "tidemark.follower"
local command_line = require "spec.support.command_line"
local fake = require "spec.support.fake_source"
local sandbox = require "spec.support.sandbox"
local Wal = require "tidemark.wal"
local found, FollowerDb = pcall(require, "tidemark.follower_db")

if not found then
  return
end
local progress = require "tidemark.follower_db.progress"
local support = require "spec.support.follower_db"

local batch, insert = support.batch, support.insert

describe("the epochs of a database that another handle changes", function()
  local directory, path, db, other

  before_each(function()
    directory = sandbox.tempdir()
    path = directory .. "/test.db"
    db, other = assert(FollowerDb.open(path, { 0, 1 })), nil
    support.create_table(db)
    assert(db:apply(batch(1, 2), insert))
    assert(db:apply(batch(3, 4, { epoch = 2, prev_epoch = 1 }), insert))
    assert.equal(2, db:epoch(0, 4)) -- which it keeps
    other = assert(FollowerDb.open(path, { 0, 1 }))
  end)
  after_each(function()
    db:close()
    other:close()
  end)
  teardown(sandbox.cleanup)

  local function reset(seqno)
    assert(other:reset(0, seqno, function(given)
      return given:exec("DELETE FROM effect WHERE shard = 0 AND seqno > ?", seqno)
    end))
  end

  it("are those of the other history", function()
    reset(2)
    assert(other:apply(batch(3, 4, { epoch = 3, prev_epoch = 1 }), insert))
    assert.same({ 3, 3, 1 }, { db:epoch(0, 4), db:epoch(0, 3), db:epoch(0, 2) })
    assert.equal(3, db:epoch(0, 4))
  end)

  it("are those of the other history after this handle has applied an epoch of its own", function()
    assert(other:apply(batch(1, 1, { shard = 1 }), insert)) -- a commit that this handle sees only in its transaction
    assert(db:apply(batch(5, 6, { epoch = 4, prev_epoch = 2 }), insert))
    other:close()
    other = assert(FollowerDb.open(path, { 0, 1 }))
    reset(4)
    assert(other:apply(batch(5, 6, { epoch = 5, prev_epoch = 2 }), insert))
    assert.equal(5, db:epoch(0, 6))
  end)

  it("answer REPLACED while the shard is below the mark of the first handle, as log_id does", function()
    for _, seqno in ipairs { 3, 2, 0 } do
      reset(seqno)
      for _, name in ipairs { "epoch", "log_id" } do
        local result, message, code = db[name](db, 0, 4)
        assert.same({ nil, "REPLACED" }, { result, code })
        assert.truthy(message:find(("its row says that record %d is the last one applied, but record 4 was"):format(seqno), 1, true))
      end
      local clock = fake.clock()
      local follower, _, code = Follower.new { target = db:target(insert), source = fake.source(clock), clock = clock, shards = { 0 } }
      assert.same({ nil, "REPLACED" }, { follower, code })
    end
  end)

  it("name another log that the other handle follows now", function()
    reset(0)
    assert(other:apply(batch(1, 4, { epoch = 2, log_id = 9 }), insert))
    assert.same({ 9, 2 }, { db:log_id(0), db:epoch(0, 4) })
  end)

  it("are known inside fn, before and after the row moves", function()
    assert(db:apply(batch(5, 5, { epoch = 3, prev_epoch = 2 }), function(given)
      assert.same({ 3, 2, 1 }, { given:epoch(0, 5), given:epoch(0, 4), given:epoch(0, 2) })
    end))
    assert.equal(3, db:epoch(0, 5))
    assert(db:reset(0, 2, function(given)
      assert.same({ 1 }, { given:epoch(0, 2) })
      assert.same({ support.LOG, nil }, { given:log_id(0), given:epoch(0, 3) })
    end))
    assert.equal(1, db:epoch(0, 2))
    assert.is_nil(db:epoch(0, 3))
  end)

  it("are kept where nobody else has committed", function()
    local row, rows = progress.row, 0
    finally(function()
      progress.row = row
    end)
    progress.row = function(...)
      rows = rows + 1
      return row(...)
    end
    for seqno = 5, 20 do
      assert.equal(2, db:epoch(0, seqno - 1))
      assert(db:apply(batch(seqno, seqno, { epoch = 2 }), insert))
    end
    assert.equal(16, rows) -- those inside the transactions
  end)

  -- With logs and the command line, as it was found.
  it("show a new follower on the first handle that its table diverges", function()
    local log, copy, file = directory .. "/log", directory .. "/copy", directory .. "/follow.db"
    local function append(where, ...)
      local wal = assert(Wal.open(where, { shards = { 0 } }))
      assert(wal:append(0, { ... }))
      assert(wal:close())
    end
    append(log, "one", "two")
    assert(os.execute(("cp -r '%s' '%s'"):format(log, copy)))
    append(log, "three", "four")
    append(copy, "other three", "other four")
    local first = assert(FollowerDb.open(file, { 0 }))
    assert(first:exec "CREATE TABLE records (shard INTEGER, seqno INTEGER, record, PRIMARY KEY (shard, seqno)) WITHOUT ROWID")
    local function follow()
      local source = assert(Wal.source(log))
      local follower = assert(Follower.new { source = source, target = first:target(function(given, record, seqno, shard)
        return given:exec("INSERT INTO records VALUES (?, ?, ?)", shard, seqno, record)
      end) })
      while follower:step(0) == 1 do end
      local status = follower:status()[0]
      follower:stop()
      follower:close()
      source:close()
      return { status.applied, status.verdict, status.common }
    end
    assert.same({ 4, "ok" }, follow())
    local second = assert(FollowerDb.open(file, { 0 }))
    assert(second:reset(0, 2, function(given)
      return given:exec "DELETE FROM records WHERE seqno > 2"
    end))
    second:close()
    command_line.expect(0, command_line.run("follow", copy, "--db", file, "--once"))
    assert.same({ 4, "diverged", 2 }, follow())
    first:close()
  end)
end)
