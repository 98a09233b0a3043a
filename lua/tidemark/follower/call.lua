--- Calls the functions that a follower is given, and says in words what came of it: an error, a yield, a result that is none.

local protected = require "tidemark.protected"

local MUST = "it must return true once its effect is durable"

local call = {}

--- With these codes a target, or the user's apply, refuses a batch for good. With any other it may take it the next time.
call.REFUSALS = { GAP = true, FENCED = true, DIVERGED = true, CORRUPT = true, FOREIGN = true }

-- The results of the call, packed, and nil; or nil and what went wrong.
local function run(name, f, ...)
  local results = table.pack(protected(f, ...))
  if not results[1] then
    return nil, ("%s %s"):format(name, results[2])
  elseif results.n == 1 then
    return nil, ("%s returned nothing: %s"):format(name, MUST)
  end
  return results
end

-- A value as a message has it.
local function show(value)
  local kind = math.type(value)
  return kind == "integer" and ("%d"):format(value) or kind == "float" and ("%.14g"):format(value)
    or type(value) == "string" and ("%q"):format(value) or "a " .. type(value)
end

-- What flush says of the shards as a table of seqnos, or nil and what is wrong with it.
local function seqnos(result)
  local copy = {}
  for shard, value in next, result do
    local seqno = math.type(value) and math.tointeger(value)
    if math.type(shard) ~= "integer" then
      return nil, ("flush returned a table with the key %s: shard ids expected"):format(show(shard))
    elseif not seqno or seqno < 0 then
      return nil, ("flush returned %s for shard %d: a seqno expected"):format(show(value), shard)
    end
    copy[shard] = seqno
  end
  return copy
end

-- True or the table that flush may return; or nil, message, code. `failed` makes the message of a failure that has one.
local function judge(name, failed, f, ...)
  local results, wrong = run(name, f, ...)
  if not results then
    return nil, wrong
  end
  local result, message, code = table.unpack(results, 2, 4)
  if result == true then
    return result
  elseif name == "flush" and type(result) == "table" then
    return seqnos(result)
  elseif result then
    return nil, ("%s returned a %s: %s"):format(name, type(result), MUST)
  end
  return nil, failed(message), type(code) == "string" and code or nil
end

--- Calls a user's function.
---@param name "apply"|"flush"
---@param f function
---@return true|table? done
---@return string? message begins with the name
---@return string? code
function call.user(name, f, ...)
  return judge(name, function(message)
    return ("%s failed: %s"):format(name, tostring(message or "it gave no message"))
  end, f, ...)
end

--- Calls a method of a target, whose message says everything already.
---@param name "apply"|"flush"
---@param target table|userdata
---@return true|table? done
---@return string? message
---@return string? code
function call.target(name, target, ...)
  return judge(name, function(message)
    return tostring(message or name .. " failed: it gave no message")
  end, target[name], target, ...)
end

return call
