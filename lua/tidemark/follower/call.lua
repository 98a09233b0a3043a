--- Calls the functions that a follower is given, and says in words what came of it: an error, a yield, a result that is none.

local protected = require "tidemark.protected"

local MUST = "it must return true once its effect is durable"

local call = {}

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

-- True or the table that flush may return; or nil, message, code. `failed` makes the message of a failure that has one.
local function judge(name, failed, f, ...)
  local results, wrong = run(name, f, ...)
  if not results then
    return nil, wrong
  end
  local result, message, code = table.unpack(results, 2, 4)
  if result == true or name == "flush" and type(result) == "table" then
    return result
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
