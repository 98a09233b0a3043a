--- What a user types: words for sh, and how this program and its interpreter are called.

local typed = {}

--- What is missing without SQLite.
typed.SQLITE = "the module tidemark.sqlite: install libsqlite3-dev, then type make in the source directory of tidemark, or there "
  .. "luarocks make rocks/tidemark-sqlite-scm-1.rockspec"

--- A word for sh that it takes as it is.
---@param word string
---@return string
function typed.quote(word)
  if word:find "^[%w_./][%w_./:-]*$" then
    return word
  end
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

--- Whether there is a file of that name that can be read.
---@param path string
---@return boolean
function typed.is_file(path)
  local file = io.open(path, "rb")
  if file then
    file:close()
  end
  return file ~= nil
end

-- The first file of that name in the directories of PATH.
local function find_program(name)
  for directory in (os.getenv "PATH" or ""):gmatch "[^:]+" do
    local path = directory .. "/" .. name
    if typed.is_file(path) then
      return path
    end
  end
end

-- The interpreter that runs this: a word, as it was typed.
local function interpreter()
  local at = 0
  while arg and arg[at - 1] do
    at = at - 1
  end
  return at < 0 and arg[at] or "lua"
end

-- Whether the first line of a file names this interpreter.
local function begins_with_interpreter(path)
  local file = io.open(path, "rb")
  local line = file and file:read "l" or ""
  if file then
    file:close()
  end
  return line:match "^#!.*[/ ]([^/ ]+)$" == interpreter():match "[^/]*$"
end

--- The words that run this program again.
---@return string
function typed.program()
  local path = arg and arg[0] or "tidemark"
  local name = path:match "[^/]*$"
  if not begins_with_interpreter(path) then
    return typed.quote(interpreter()) .. " " .. typed.quote(path)
  elseif find_program(name) == path then
    return name
  end
  return typed.quote(path)
end

return typed
