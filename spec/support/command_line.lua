--- The command line as a user starts it, and the logs it works on, for specs. Every wait is bounded; what is started is ended by
--- sandbox.cleanup at the latest.

local sandbox = require "spec.support.sandbox"
local uv = require "luv"
local Wal = require "tidemark.wal"

local command_line = {}

--- How long a user would wait. Generous: sanitizers and busy machines are slow.
command_line.PATIENCE = 60

--- The words that run bin/tidemark.
---@param prelude? string Lua source that runs first, with the modules of this tree
---@return string[]
function command_line.words(prelude, ...)
  local words = sandbox.interpreter()
  if prelude then
    words[#words + 1], words[#words + 2] = "-e", prelude
  end
  words[#words + 1] = "bin/tidemark"
  return table.move({ ... }, 1, select("#", ...), #words + 1, words)
end

--- The same as text for sh.
---@return string
function command_line.shell(...)
  local words = command_line.words(nil, ...)
  for i, word in ipairs(words) do
    words[i] = "'" .. word:gsub("'", "'\\''") .. "'"
  end
  return table.concat(words, " ")
end

--- Starts `tidemark ...` with its input open.
---@return Child
function command_line.start(...)
  return sandbox.spawn(command_line.words(nil, ...), true)
end

--- What came of a child: waits for its end.
---@param child Child
---@return { code: integer|string, out: string, err: string } result code is "signal N" where it was one
function command_line.finish(child)
  child:wait_until(function()
    return child.exit_code and child.ended and child.errors_ended
  end, "did not end", command_line.PATIENCE)
  local _, how, code = child:wait()
  return { code = how == "exit" and code or "signal " .. code, out = child.unread, err = child.errors }
end

-- Gives it all of `input`, then the end of input.
local function feed(child, input)
  if input and input ~= "" then
    child.input:write(input, function() end)
  end
  child.input:shutdown(function()
    child:close_input()
  end)
end

--- Runs words with this input (nil: none) to the end.
---@param words string[]
---@param input string?
---@return { code: integer|string, out: string, err: string }
function command_line.run_words(words, input)
  local child = sandbox.spawn(words, true)
  feed(child, input)
  return command_line.finish(child)
end

--- Runs `tidemark ...` without input.
---@return { code: integer|string, out: string, err: string }
function command_line.run(...)
  return command_line.run_words(command_line.words(nil, ...))
end

--- Runs `tidemark ...` with input.
---@return { code: integer|string, out: string, err: string }
function command_line.run_with(input, ...)
  return command_line.run_words(command_line.words(nil, ...), input)
end

--- Runs text with sh.
---@return { code: integer|string, out: string, err: string }
function command_line.run_shell(text)
  return command_line.run_words { "sh", "-c", text }
end

--- Waits until `done()` is true.
---@param what string
function command_line.wait_until(what, done)
  local deadline = uv.hrtime() + command_line.PATIENCE * 1e9
  while not done() do
    assert(uv.hrtime() < deadline, what .. ": not in time")
    uv.sleep(2)
  end
end

--- Fails unless it ended with this exit code and told all of `parts` on standard error.
---@param code integer
---@param result { code: integer|string, out: string, err: string }
---@param ... string
---@return string out what it wrote to standard output
function command_line.expect(code, result, ...)
  local told = ("exit code %s, standard error:\n%s"):format(result.code, result.err)
  assert(result.code == code and not result.err:find "traceback", told)
  for _, part in ipairs { ... } do
    assert(result.err:find(part, 1, true), ("'%s' is not told: %s"):format(part, told))
  end
  return result.out
end

-- ---- files ----

function command_line.write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
end

---@return string? text nil if there is no such file
function command_line.read(path)
  local file = io.open(path, "rb")
  local text = file and file:read "a"
  if file then
    file:close()
  end
  return text
end

--- Changes bytes of a file in place.
function command_line.patch(path, offset, bytes)
  local file = assert(io.open(path, "r+b"))
  file:seek("set", offset)
  assert(file:write(bytes))
  file:close()
end

--- The names in a directory, sorted and joined by spaces.
function command_line.list(directory)
  local names = {}
  for name in uv.fs_scandir_next, assert(uv.fs_scandir(directory)) do
    names[#names + 1] = name
  end
  table.sort(names)
  return table.concat(names, " ")
end

-- ---- logs ----

--- The head of a shard, 0 where there is none yet.
---@return integer
function command_line.head(directory, shard)
  local heads = Wal.heads(directory)
  local head = heads and heads:applied_seqno(shard) or 0
  if heads then
    heads:close()
  end
  return head
end

--- All records of a log: {[shard] = {record, ...}}.
function command_line.records(directory)
  local heads, result = assert(Wal.heads(directory)), {}
  for shard, head in pairs(heads:snapshot()) do
    local records = {}
    if head > 0 then
      local reader = assert(Wal.reader(directory, shard, 0))
      while #records < head do
        for seqno, record in assert(reader:next(0)):records() do
          assert(seqno == #records + 1)
          records[seqno] = record
        end
      end
      reader:close()
    end
    result[shard] = records
  end
  heads:close()
  return result
end

--- A log of `shards` shards with `batches` batches each, of two records "shard:seqno" each.
---@return table<integer, string[]> records
function command_line.make_log(directory, shards, batches)
  local ids, records = {}, {}
  for shard = 0, shards - 1 do
    ids[#ids + 1], records[shard] = shard, {}
  end
  local wal = assert(Wal.open(directory, { shards = ids, sync = false }))
  for _ = 1, batches do
    for shard = 0, shards - 1 do
      local list = records[shard]
      local batch = { ("%d:%d"):format(shard, #list + 1), ("%d:%d"):format(shard, #list + 2) }
      assert(wal:append(shard, batch))
      table.move(batch, 1, 2, #list + 1, list)
    end
  end
  assert(wal:close())
  return records
end

return command_line
