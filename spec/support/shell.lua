--- Shell commands and small files, for specs.

local shell = {}

--- Runs commands: whether the last one worked, and what they wrote to standard output and standard error.
---@param commands string
---@return boolean ok
---@return string output
function shell.run(commands)
  local pipe = io.popen("{ " .. commands .. "\n} 2>&1")
  local output = pipe:read "a"
  return pipe:close() == true, output
end

---@param path string
---@param bytes string
function shell.write(path, bytes)
  local file = assert(io.open(path, "wb"))
  file:write(bytes)
  file:close()
end

---@param path string
---@return boolean
function shell.exists(path)
  local file = io.open(path)
  return file ~= nil and file:close()
end

return shell
