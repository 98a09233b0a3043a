--- The advice in the messages of the library, followed to the letter: states and follower databases. spec/advice_spec.lua has the table of
--- all messages.

local Batch = require "tidemark.batch"
local Follower = require "tidemark.follower"
local ReplicationState = require "tidemark.replication_state"
local StateTarget = require "tidemark.state_target"
local advice = require "spec.support.advice"
local epochs = require "tidemark.epochs"
local fake = require "spec.support.fake_source"
local sandbox = require "spec.support.sandbox"
local has_sqlite, sqlite = pcall(require, "tidemark.sqlite")

local refused, said, taken = advice.refused, advice.said, advice.taken

local directory, path

-- A source that gives these batches and has no more.
local function source_of(clock, ...)
  local source = fake.source(clock)
  source:send(...)
  return source
end

-- A process that has the state open, with shard 0 at 5 in the checkpoint and at 7 in memory. It ends when its input does.
local HOLDER = [[
  local state = assert(require("tidemark.replication_state").open(..., { 0 }))
  state:advance(0, 5)
  assert(state:checkpoint())
  state:advance(0, 7)
  io.stdout:write "open\n"
  io.stdout:flush()
  io.read()
  state:close()
]]

local function hold()
  local child = sandbox.start(HOLDER, path)
  assert.equal("open", child:read_line())
  return child
end

local function finish(child)
  assert.is_true((child:wait()))
end

local function open(shards, ...)
  return ReplicationState.open(path, shards or { 0 }, ...)
end

-- Opens it, sees that the mark is that one and that it can be saved, and closes it.
local function assert_sound(mark)
  local state = assert(open())
  assert.equal(mark, state:applied_seqno(0))
  state:advance(0, mark + 1)
  assert.is_true(state:checkpoint())
  state:close()
end

local function read(name)
  local file = assert(io.open(name, "rb"))
  local bytes = file:read "a"
  file:close()
  return bytes
end

local function write(name, bytes)
  local file = assert(io.open(name, "wb"))
  assert(file:write(bytes))
  file:close()
end

before_each(function()
  directory = sandbox.tempdir()
  path = directory .. "/state"
end)
after_each(sandbox.cleanup)

describe("advice on a state", function()
  it("BUSY: the live file was deleted, so that process is ended", function()
    local holder = hold()
    assert(os.remove(path .. ".live"))
    said(refused("BUSY", open()), path, "one was deleted or replaced", "end that process first")
    finish(holder)
    assert_sound(5) -- what was durable, and no more
  end)

  it("BUSY: the live file is another state's, so those processes are ended", function()
    local other = assert(ReplicationState.open(directory .. "/other", { 0 }))
    other:advance(0, 3)
    assert(other:checkpoint())
    other:close()
    local holder = hold()
    write(path, read(directory .. "/other"))
    said(refused("BUSY", open()), path, "end those processes first")
    finish(holder)
    assert_sound(3)
  end)

  it("DENIED: a symbolic link, so the file itself is named", function()
    assert(open()):close()
    assert(os.execute(("ln -s state '%s/link'"):format(directory)))
    local message = refused("DENIED", ReplicationState.open(directory .. "/link", { 0 }))
    said(message, "is a symbolic link", "name the file itself")
    local pipe = io.popen(("readlink -f '%s'"):format(taken(message, "^(.-): is a symbolic link")))
    path = pipe:read "l"
    pipe:close()
    assert_sound(0)
  end)

  it("DENIED: another user's file, so it is opened as that user", function()
    local probe = "test $(id -u) = 0 && setpriv --reuid 1 --clear-groups test -r lua/tidemark/init.lua -a -x . 2>/dev/null"
    if not os.execute(probe) then
      pending "needs root, and a checkout that others may read"
      return
    end
    assert(open()):close()
    assert(os.execute(("chown -R 1 '%s'"):format(directory)))
    local user = taken(refused("DENIED", open()), "belongs to user 1, but user 0 has tried to open it: open it as user (%d+)")
    local words = { "setpriv", "--reuid", user, "--clear-groups" }
    table.move(sandbox.interpreter(), 1, 8, #words + 1, words)
    words[#words + 1], words[#words + 2] = "-e", ("assert(require('tidemark.replication_state').open(%q, {0}))"):format(path)
    local child = sandbox.spawn(words, true)
    assert(child:wait(), child.errors)
  end)

  it("BUSY at a reset: other references are closed", function()
    local state = assert(open())
    state:advance(0, 5)
    assert(state:checkpoint { [0] = epochs.encode(7, { { epoch = 1, first_seqno = 1 } }) })
    local watch = state:watch(0, 9)
    said(refused("BUSY", state:reset(0, 2)), "other references to the state are in use", "close them first")
    watch:close()
    assert.is_true(state:reset(0, 2))
    state:close()
    assert_sound(2)
  end)

  it("LOCKED at a reset: the follower of this process is ended", function()
    local state = assert(open())
    local source = source_of(fake.clock(), fake.batch(1, 3))
    local follower = assert(Follower.new { source = source, state = state, apply = function()
      return true
    end })
    assert.equal(1, follower:step(0))
    said(refused("LOCKED", state:reset(0, 2)), "shard 0 has a follower in this process: end it first")
    follower:stop()
    follower:close()
    assert.is_true(state:reset(0, 2))
    state:close()
    assert_sound(2)
  end)

  it("BUSY at a reset: it is closed elsewhere", function()
    local holder = hold()
    local state = assert(open())
    said(refused("BUSY", state:reset(0, 0)), "the state is open elsewhere", "close it there first")
    finish(holder)
    assert.is_true(state:reset(0, 0))
    state:close()
    assert_sound(0)
  end)

  it("BUSY at a reset: somebody changed the note, so it is tried again", function()
    local state = assert(open())
    state:advance(0, 5)
    assert(state:checkpoint { [0] = epochs.encode(7, { { epoch = 1, first_seqno = 1 } }) })
    said(refused("BUSY", state:__reset(0, 2, "the note as it was before", nil)), "somebody else has just changed the note", "try again")
    assert.is_true(state:reset(0, 2))
    state:close()
    assert_sound(2)
  end)

  it("NOT_FOUND at a reset: the seqno that is named, or 0", function()
    for way = 1, 2 do
      local state = assert(open())
      state:advance(0, 30)
      assert(state:checkpoint { [0] = epochs.encode(7, { { epoch = 2, first_seqno = 11 } }) })
      local message = refused("NOT_FOUND", state:reset(0, 3))
      local lowest, zero = taken(message, "the lowest seqno to which the shard can be reset is (%d+), or else (%d+)")
      local seqno = math.tointeger(tonumber(way == 1 and lowest or zero))
      assert.is_true(state:reset(0, seqno))
      assert.equal(seqno, state:applied_seqno(0))
      state:close()
      os.remove(path)
    end
    local state = assert(open())
    state:advance(0, 30)
    local seqno = taken(refused("NOT_FOUND", state:reset(0, 3)), "the shard can only be reset to (%d+)")
    assert.is_true(state:reset(0, math.tointeger(tonumber(seqno))))
    state:close()
    assert_sound(0)
  end)

  it("FORKED: the child closes it and opens it again", function()
    local ok, output = sandbox.lua([[
      local path, cpath = ...
      package.cpath = cpath .. ";" .. package.cpath
      local ReplicationState = require "tidemark.replication_state"
      local state = assert(ReplicationState.open(path, { 0 }))
      state:advance(0, 5)
      local code, is_child = require("fork")()
      if is_child then
        local _, message, code = state:checkpoint()
        assert(code == "FORKED" and message:find("close the state here and open it again", 1, true), message)
        state:close()
        state = assert(ReplicationState.open(path, { 0 }))
        state:advance(0, 6)
        assert(state:checkpoint())
        os.exit(0, true)
      end
      assert(code == 0)
      assert(state:applied_seqno(0) == 6)
      assert(state:checkpoint())
    ]], path, advice.fork_module(directory))
    assert(ok, output)
    assert_sound(6)
  end)

  for what, replace in pairs {
    ["was deleted or replaced since it was opened"] = function()
      assert(os.rename(directory .. "/other", path))
    end,
    [".live: was deleted or replaced since it was opened"] = function()
      assert(os.remove(path .. ".live"))
    end,
    ["was overwritten with another state since it was opened"] = function()
      write(path, read(directory .. "/other"))
    end,
  } do
    it("REPLACED: it is closed and opened again: " .. what, function()
      local other = assert(ReplicationState.open(directory .. "/other", { 0 }))
      other:advance(0, 3)
      assert(other:checkpoint())
      other:close()
      local state = assert(open())
      state:advance(0, 3)
      assert(state:checkpoint())
      state:advance(0, 9) -- not durable, so the mark may be lost and comes again
      replace()
      said(refused("REPLACED", state:checkpoint()), path, what, "close the state and open it again")
      state:close()
      assert_sound(3)
    end)
  end

  it("IO and POISONED: all close it, the disk is mended, and it is opened again", function()
    local sick = directory .. "/sick"
    local output = advice.run_sick(advice.sick_disk(directory, sick), [[
      local path, sick = ...
      local ReplicationState = require "tidemark.replication_state"
      local state, other = assert(ReplicationState.open(path, { 0 })), assert(ReplicationState.open(path, { 0 }))
      state:advance(0, 5)
      assert(state:checkpoint())
      state:advance(0, 6)
      io.open(sick, "w"):close()
      print(select(2, state:checkpoint()))
      os.remove(sick) -- whoever looks at the disk mends it
      print(select(2, state:checkpoint()))
      state:close()
      state = assert(ReplicationState.open(path, { 0 })) -- `other` has it open, so this is not enough
      assert(select(3, state:checkpoint()) == "POISONED")
      state:close()
      other:close()
      state = assert(ReplicationState.open(path, { 0 }))
      assert(state:applied_seqno(0) >= 5)
      assert(state:checkpoint())
      print "done"
    ]], path, sick)
    said(output, "sync failed, so nothing can be saved until all who have it open have closed it: Input/output error",
      "an earlier sync failed: close the state in every process, look at the disk, and open it again")
    assert_sound(6)
  end)

  it("UNKNOWN_SHARD: it is named when the state is opened", function()
    local state = assert(open())
    refused("UNKNOWN_SHARD", state:advance(7, 1))
    state:close()
    state = assert(open { 0, 7 })
    assert.is_true(state:advance(7, 1))
    state:close()
  end)

  it("TIMEOUT: it is asked again", function()
    local state = assert(open())
    refused("TIMEOUT", state:wait_for(0, 1, 0))
    state:advance(0, 1)
    assert.is_true(state:wait_for(0, 1, 0))
    state:close()
  end)

  it("INTERRUPTED: it waits again", function()
    local state = assert(open())
    state:interrupt()
    refused("INTERRUPTED", state:wait_for(0, 1, 60))
    state:advance(0, 1)
    assert.is_true(state:wait_for(0, 1, 60))
    state:close()
  end)

  it("UNSUPPORTED: a watch of a state with files is asked whether it is ready", function()
    local state = assert(open())
    local watch = state:watch(0, 2)
    said(refused("UNSUPPORTED", watch:fd()), "ask whether the watch is ready")
    assert.is_false(watch:ready())
    state:advance(0, 2)
    assert.is_true(watch:ready())
    state:close()
  end)
end)

describe("advice on the functions of a follower", function()
  -- What is said of `wrong` as the function of that name; and a follower with `right` applies the records, each once.
  local function try(wrong, right)
    local told, seen = {}, {}
    local state = ReplicationState.new { 0 }
    for _, apply in ipairs { wrong, right } do
      local clock = fake.clock()
      local target = StateTarget.new { state = state, apply = function(batch)
        return apply(batch, seen)
      end }
      local follower = assert(Follower.new { source = source_of(clock, fake.batch(1, 2)), target = target, clock = clock,
        log = function(message)
          told[#told + 1] = message
        end })
      follower:step(60)
      follower:close()
    end
    assert.equal(2, state:applied_seqno(0))
    return table.concat(told, "\n"), seen
  end

  local function right(batch, seen)
    for seqno in batch:records() do
      seen[#seen + 1] = seqno
    end
    return true
  end

  it("it must return true once its effect is durable, and then does", function()
    for _, wrong in ipairs {
      function() end,
      function()
        return 1
      end,
    } do
      local told, seen = try(wrong, right)
      said(told, "it must return true once its effect is durable")
      assert.same({ 1, 2 }, seen)
    end
  end)

  it("it must do its work before it returns, and then does", function()
    local told, seen = try(function()
      coroutine.yield()
      return true
    end, right)
    said(told, "yielded: it must do its work before it returns")
    assert.same({ 1, 2 }, seen)
  end)

  it("GAP: it names what the source skips, and a source that does not is followed", function()
    local state, seen = ReplicationState.new { 0 }, {}
    local function follow(...)
      local follower = assert(Follower.new { state = state, source = source_of(fake.clock(), ...), apply = function(batch)
        return right(batch, seen)
      end })
      follower:step(0)
      follower:step(0)
      local entry = follower:status()[0]
      follower:close()
      return entry
    end
    local entry = follow(fake.batch(1, 2), fake.batch(5, 6))
    assert.equal("GAP", entry.code)
    local first, last = taken(entry.error, "records (%d+)%.%.(%d+) are missing: record 2 is the last one applied")
    follow(fake.batch(math.tointeger(tonumber(first)), math.tointeger(tonumber(last))), fake.batch(5, 6))
    assert.same({ 1, 2, 3, 4, 5, 6 }, seen)
  end)

  it("close from inside apply: stop is called", function()
    local state, follower, message = ReplicationState.new { 0 }, nil, nil
    follower = assert(Follower.new { state = state, source = source_of(fake.clock(), fake.batch(1, 2), fake.batch(3, 4)),
      apply = function()
        local _
        _, message = pcall(follower.close, follower)
        follower:stop()
        return true
      end })
    assert.is_true(follower:run())
    said(message, "close is called from inside apply or flush: call stop")
    assert.equal(2, state:applied_seqno(0)) -- the batch that was running, whole
    follower:close()
  end)
end)

if has_sqlite then
  local FollowerDb = require "tidemark.follower_db"

  describe("advice on a database", function()
    local db

    before_each(function()
      db = assert(FollowerDb.open(path, { 0 }))
      assert(db:exec "CREATE TABLE effect (seqno INTEGER PRIMARY KEY)")
    end)
    after_each(function()
      db:close()
    end)

    local function batch(first, last, epoch, prev_epoch)
      local records = {}
      for seqno = first, last do
        records[#records + 1] = tostring(seqno)
      end
      return Batch.encode { shard = 0, log_id = 7, epoch = epoch or 1, prev_epoch = prev_epoch or first > 1 and 1 or 0,
        first_seqno = first, records = records }
    end

    local function insert(connection, _, seqno)
      return connection:exec("INSERT INTO effect VALUES (?)", seqno)
    end

    local function assert_effects(...)
      local seqnos = {}
      for seqno in assert(db:rows "SELECT seqno FROM effect ORDER BY seqno") do
        seqnos[#seqnos + 1] = seqno
      end
      assert.same({ ... }, seqnos)
    end

    local function take_back(seqno)
      return function(connection)
        return connection:exec("DELETE FROM effect WHERE seqno > ?", seqno)
      end
    end

    it("a FollowerDb: its target is given", function()
      local rows = 0
      local source = source_of(fake.clock(), fake.batch(1, 2))
      local ok, message = pcall(Follower.new, { source = source, target = db })
      assert.is_false(ok)
      said(message, "option 'target' is a FollowerDb: give db:target(fn)")
      local follower = assert(Follower.new { source = source, clock = source.clock, target = db:target(function()
        rows = rows + 1
        return true
      end) })
      follower:step(0)
      assert.same({ 2, 2 }, { rows, follower:status()[0].applied })
      follower:close()
      db:close()
    end)

    it("REPLACED: it has been reset elsewhere, and is opened again", function()
      assert.is_true(db:apply(batch(1, 4), insert))
      local other = assert(FollowerDb.open(path, { 0 }))
      assert.is_true(other:reset(0, 2, take_back(2)))
      other:close()
      said(refused("REPLACED", db:apply(batch(5, 6), insert)), path, "record 2 is the last one applied, but record 4 was",
        "it has been reset; open it again")
      db:close()
      db = assert(FollowerDb.open(path, { 0 }))
      assert.equal(2, db:state():applied_seqno(0))
      assert.is_true(db:apply(batch(3, 4), insert))
      assert.is_true(db:apply(batch(5, 6), insert))
      assert_effects(1, 2, 3, 4, 5, 6)
    end)

    it("NOT_FOUND at a reset: the seqno that is named, or 0", function()
      for way = 1, 2 do
        assert.is_true(db:apply(batch(1, 2), insert))
        assert.is_true(db:apply(batch(3, 6, 2, 1), insert))
        assert(db:exec "DELETE FROM tidemark_epochs WHERE first_seqno = 1") -- as if there had been 10,000 epochs since
        local message = refused("NOT_FOUND", db:reset(0, 1, take_back(1)))
        local lowest, zero = taken(message, "the shard can be reset to record (%d+) or above, or to (%d+)")
        local seqno = math.tointeger(tonumber(way == 1 and lowest or zero))
        assert.is_true(db:reset(0, seqno, take_back(seqno)))
        assert.equal(seqno, db:state():applied_seqno(0))
        assert.is_true(db:apply(seqno > 0 and batch(4, 6, 2, 2) or batch(1, 6), insert))
        assert_effects(1, 2, 3, 4, 5, 6)
        assert.is_true(db:reset(0, 0, take_back(0)))
      end
    end)

    it("COMMIT in fn: a savepoint is used", function()
      local function with(first, last)
        return function(connection, _, seqno)
          assert(connection:exec(first))
          assert(connection:exec("INSERT INTO effect VALUES (?)", seqno))
          assert(connection:exec(last))
        end
      end
      said(refused("APPLY_FAILED", db:apply(batch(1, 2), with("SELECT 1", "COMMIT"))),
        "only who began this transaction may COMMIT or ROLLBACK; use SAVEPOINT")
      assert_effects()
      assert.is_true(db:apply(batch(1, 2), with("SAVEPOINT mine", "RELEASE mine")))
      assert_effects(1, 2)
    end)

    it("NULL in the first column: another one is selected first", function()
      assert(db:exec "CREATE TABLE pair (a, b)")
      assert(db:exec "INSERT INTO pair VALUES (NULL, 5)")
      local ok, message = pcall(assert(db:rows "SELECT a, b FROM pair"))
      assert.is_false(ok)
      said(message, "the first column is NULL, which would end a loop: select another first")
      for b, a in assert(db:rows "SELECT b, a FROM pair") do
        assert.same({ 5, nil }, { b, a })
      end
      assert.equal("function", type(sqlite.open))
    end)
  end)
end
