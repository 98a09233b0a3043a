--- What host.c serves. Runs once in each thread's lua_State, with the state that all of them share, and gives the function that
--- answers a line:
---
---     advance SHARD SEQNO           true, or false where the mark stood there already
---     mark SHARD                    the mark
---     marks                         all of them, as a checkpoint
---     wait SHARD SEQNO SECONDS      true once the mark is there; blocks this thread and no other

local state = ...

local verbs = {
  advance = state.advance,
  mark = state.applied_seqno,
  marks = state.to_checkpoint_bytes,
  wait = state.wait_for,
}

---@param line string
---@return string
return function(line)
  local words = {}
  for word in line:gmatch "%S+" do
    words[#words + 1] = tonumber(word) or word
  end
  local verb = verbs[words[1]]
  if not verb then
    return "error: expected advance, mark, marks or wait"
  end
  local results = table.pack(pcall(verb, state, table.unpack(words, 2)))
  for i = 1, results.n do
    results[i] = tostring(results[i])
  end
  if results[1] == "false" then
    return "error: " .. results[2]
  end
  return table.concat(results, " ", 2)
end
