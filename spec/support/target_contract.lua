--- What every target of a follower must do. A subject is a table:
---   open()      the target on the subject's files, as after a restart: what was open before is dropped, as a kill would
---   effects()   the seqnos of shard 0 that took effect, in order, such as "1 2 3"
---   fail()      the next record that is applied has no effect, and apply must say so
---   in_memory   true: nothing is kept over a restart
--- The targets have the shards 0 and 1. Each check is a function that raises where the target does not do it.

local luassert = require "luassert"
local fake = require "spec.support.fake_source"

local batch = fake.batch

local contract = { checks = {} }

local function check(name, f)
  contract.checks[#contract.checks + 1] = { name = name, run = f }
end

-- What a follower does with a batch that it has checked.
local function apply(target, one)
  local result, message, code = target:apply(one, function() end)
  if result ~= true then
    return nil, message, code
  end
  if not target.flush then
    assert(target:state():advance(one.shard, one.last_seqno) ~= nil)
  end
  return true
end

local function flush(target, shard, seqno)
  if target.flush then
    local flushed = target:flush()
    assert(flushed == true or type(flushed) == "table", "flush gives true or a table")
    target:state():advance(shard, flushed == true and seqno or flushed[shard] or 0)
  end
end

check("has nothing at first", function(subject)
  local target = subject.open()
  luassert.equal(0, target:state():applied_seqno(0))
  luassert.is_nil((target:log_id(0)))
  luassert.equal(0, target:epoch(0, 0))
  luassert.is_nil((target:epoch(0, 1)))
  luassert.is_nil((select(3, target:epoch(0, 1))))
end)

check("has a state whose shards can be locked", function(subject)
  local state = subject.open():state()
  luassert.is_true(state:lock_shard(0))
  state:unlock_shard(0)
end)

check("applies each record, and knows the log and the epoch of each", function(subject)
  local target = subject.open()
  luassert.is_true(apply(target, batch(1, 3)))
  luassert.is_true(apply(target, batch(4, 4)))
  luassert.is_true(apply(target, batch(5, 6, 9, 1)))
  flush(target, 0, 6)
  luassert.equal("1 2 3 4 5 6", subject.effects())
  luassert.equal(7, target:log_id(0))
  for seqno, epoch in pairs { [0] = 0, 1, 1, 1, 1, 9, 9 } do
    luassert.equal(epoch, target:epoch(0, seqno))
  end
  luassert.is_nil((target:epoch(0, 7)))
  luassert.equal(6, target:state():applied_seqno(0))
end)

check("keeps shards apart", function(subject)
  local target = subject.open()
  luassert.is_true(apply(target, batch(1, 2)))
  luassert.is_true(apply(target, batch(1, 3, 4, 0, { shard = 1 })))
  luassert.same({ 1, 4 }, { target:epoch(0, 2), target:epoch(1, 2) })
  luassert.is_nil((target:epoch(0, 3)))
end)

check("knows after a restart what goes with its mark", function(subject)
  if subject.in_memory then
    return
  end
  local target = subject.open()
  luassert.is_true(apply(target, batch(1, 3)))
  luassert.is_true(apply(target, batch(4, 6, 9, 1)))
  target = subject.open() -- without a flush or a checkpoint
  local mark = target:state():applied_seqno(0)
  for seqno = 1, mark do
    luassert.equal(seqno <= 3 and 1 or 9, target:epoch(0, seqno))
  end
  luassert.is_nil((target:epoch(0, mark + 1)))
  luassert.equal(7, target:log_id(0))
  local all = { 1, 2, 3, 4, 5, 6 }
  luassert.equal(table.concat(all, " ", 1, mark), subject.effects():sub(1, 2 * mark - 1)) -- the mark claims nothing that is not there
  if mark < 6 then
    luassert.is_true(apply(target, batch(mark + 1, 6, 9, target:epoch(0, mark))))
  end
  luassert.is_true(apply(target, batch(7, 7, 9)))
  luassert.equal(9, target:epoch(0, 7))
end)

check("makes an epoch durable no later than its effect", function(subject)
  if subject.in_memory then
    return
  end
  local target = subject.open()
  luassert.is_true(apply(target, batch(1, 3)))
  flush(target, 0, 3)
  luassert.is_true(target:apply(batch(4, 6, 9, 1))) -- and the process ends before the mark moves
  target = subject.open()
  luassert.is_true(target:state():applied_seqno(0) >= 3)
  local said
  if target:state():applied_seqno(0) == 6 then
    luassert.equal(9, target:epoch(0, 6)) -- it is there as a whole
  else -- its effects may be there, and another epoch takes its place: the target says so
    luassert.is_true(target:apply(batch(4, 6, 8, 1), function(message)
      said = message
    end))
    luassert.truthy(said and said:find("from record 4 on", 1, true), "it does not say from where on effects may be there")
  end
end)

check("says what failed, and the same batch can be applied afterwards", function(subject)
  local target = subject.open()
  luassert.is_true(apply(target, batch(1, 2)))
  subject.fail()
  local result, message, code = target:apply(batch(3, 4, 5, 1))
  luassert.is_nil(result)
  luassert.equal("string", type(message))
  luassert.truthy(code == nil or type(code) == "string")
  luassert.is_nil((target:epoch(0, 3)))
  luassert.equal(1, target:epoch(0, 2))
  luassert.is_true(target:state():applied_seqno(0) <= 2)
  luassert.is_true(apply(target, batch(3, 4, 5, 1)))
  luassert.same({ 5, 5 }, { target:epoch(0, 3), target:epoch(0, 4) })
  luassert.equal("1 2 3 4", subject.effects())
end)

check("lets an epoch of which nothing was applied give way to another, also a lower one", function(subject)
  local target = subject.open()
  luassert.is_true(apply(target, batch(1, 2)))
  subject.fail()
  luassert.is_nil((target:apply(batch(3, 4, 500, 1))))
  luassert.is_true(apply(target, batch(3, 3, 200, 1)))
  luassert.same({ 1, 200 }, { target:epoch(0, 2), target:epoch(0, 3) })
end)

return contract
