--- Calls a user's function so that neither an error nor a yield leaves its caller in the middle of something.

--- Calls `f(...)` in a thread of its own, so that a yield ends there.
---@param f function
---@return boolean returned
---@return any ... the results of `f`, or what went wrong: "raised an error: ...", "yielded: ..."
local function protected(f, ...)
  local thread = coroutine.create(f)
  local results = table.pack(coroutine.resume(thread, ...))
  local yielded = coroutine.status(thread) == "suspended"
  if (yielded or not results[1]) and coroutine.close then -- Lua 5.4: closes its variables
    coroutine.close(thread)
  elseif yielded then -- Lua 5.3: who has the thread could resume it, and it would go on where nobody expects it
    debug.sethook(thread, function()
      error("its caller has returned", 0)
    end, "crl", 1)
  end
  if yielded then
    return false, "yielded: it must do its work before it returns"
  elseif not results[1] then
    return false, "raised an error: " .. tostring(results[2])
  end
  return table.unpack(results, 1, results.n)
end

return protected
