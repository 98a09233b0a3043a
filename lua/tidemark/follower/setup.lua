--- What a follower is given: its options, and what its target knows of the shards when it begins.

local options = require "tidemark.options"
local shards = require "tidemark.follower.shards"
local StateTarget = require "tidemark.state_target"

local OPTIONS = {
  target = { options.is_object, "a target", optional = true },
  state = { options.is_object, "a ReplicationState" },
  source = { options.is_object, "a source of batches" },
  apply = { options.is_function, "a function" },
  flush = { options.is_function, "a function", optional = true },
  shards = { options.is_shards, "an array of shard ids, at least one", optional = true },
  checkpoint_every = { options.is_count, "an integer >= 1", optional = true },
  checkpoint_seconds = { options.is_seconds, "a number of seconds >= 0", optional = true },
  clock = { options.is_object, "a table with now and sleep", optional = true },
  log = { options.is_function, "a function", optional = true },
}

local OF_STATE_TARGET = { "state", "apply", "flush" }

local METHODS = {
  source = { "subscribe", "head", "wait", "log_id", "epoch" },
  target = { "state", "log_id", "epoch", "apply" },
}

local setup = {}

-- Raises unless the object has the methods.
local function check_methods(option, object)
  for _, name in ipairs(METHODS[option]) do
    if not object[name] then
      error(("bad argument #1 to 'new' (option '%s' has no method '%s')"):format(option, name), 4)
    end
  end
end

--- Checks the options and gives the target that they name. To be called by `new` itself: what is wrong raises as an error of its caller.
---@param given tidemark.FollowerOptions
---@return tidemark.Target
function setup.target_of(given)
  local rules = OPTIONS
  if type(given) == "table" and given.target ~= nil then
    rules = {}
    for name, rule in pairs(OPTIONS) do
      rules[name] = rule
    end
    for _, name in ipairs(OF_STATE_TARGET) do
      if given[name] ~= nil then
        error(("bad argument #1 to 'new' (option 'target' goes without '%s')"):format(name), 3)
      end
      rules[name] = nil
    end
  end
  options.check("new", rules, given, 1)
  check_methods("source", given.source)
  if given.target then
    if given.target.target then -- its apply takes a function of the user's and not the follower's
      error("bad argument #1 to 'new' (option 'target' is a FollowerDb: give db:target(fn))", 3)
    end
    check_methods("target", given.target)
    return given.target
  end
  return StateTarget.new { state = given.state, apply = given.apply, flush = given.flush }
end

--- Locks the shards and reads what the target knows of them: true, or nil, message, code.
function setup.take_shards(self, ids)
  local taken = {}
  for _, id in ipairs(ids) do
    if not taken[id] then
      local ok, message, code = self.state:lock_shard(id)
      if not ok then
        return nil, message, code
      end
      local shard = shards.new(id, self.state:applied_seqno(id))
      taken[id], self.shards[#self.shards + 1] = true, shard
      shards.set_state(self, shard, "catching_up")
      shard.log_id, message, code = self.target:log_id(id)
      if not shard.log_id and (message or code) then
        return nil, message, code
      end
      function shard.epoch(seqno)
        return self.target:epoch(id, seqno)
      end
    end
  end
  return true
end

return setup
