--- The texts in source files: string literals, with those that follow one another joined into one, and without comments.

local literals = {}

-- The end of the literal or comment that begins at `at`, and its text if it is a literal; nil where neither begins there.
local function lua_token(source, at)
  local comment, level = source:match("^%-%-%[(=*)%[()", at)
  if comment then
    return (select(2, source:find("]" .. comment .. "]", level, true)))
  elseif source:find("^%-%-", at) then
    return (source:find("\n", at, true) or #source + 1) - 1
  end
  local equals, first = source:match("^%[(=*)%[()", at)
  if equals then
    local last, stop = source:find("]" .. equals .. "]", first, true)
    return stop, source:sub(first, last - 1)
  end
end

local function c_token(source, at)
  if source:find("^/%*", at) then
    return (select(2, source:find("*/", at, true)))
  elseif source:find("^//", at) then
    return (source:find("\n", at, true) or #source + 1) - 1
  end
end

local function quoted(source, at)
  local quote = source:sub(at, at)
  local stop = at + 1
  while source:sub(stop, stop) ~= quote do
    stop = stop + (source:sub(stop, stop) == "\\" and 2 or 1)
  end
  return stop, source:sub(at + 1, stop - 1)
end

--- All texts of a source file in Lua or C, each a table { text =, line = }.
---@param source string
---@param is_lua boolean
---@return { text: string, line: integer }[]
function literals.of(source, is_lua)
  local found, at, line, between = {}, 1, 1, "x"
  while at <= #source do
    local char = source:sub(at, at)
    local stop, text = (is_lua and lua_token or c_token)(source, at)
    if not stop and (char == '"' or char == "'") then
      stop, text = quoted(source, at)
      if char == "'" and not is_lua then
        text = nil
      end
    end
    if text then
      local last = found[#found]
      local joins = is_lua and between:find "^%s*%.%.%s*$" or not is_lua and between:find "^[%s%u%d_]*$"
      if last and joins then
        last.text = last.text .. text
      else
        found[#found + 1] = { text = text, line = line }
      end
      between = ""
    elseif not stop then
      between = between .. char
    end
    stop = stop or at
    line = line + select(2, source:sub(at, stop):gsub("\n", ""))
    at = stop + 1
  end
  return found
end

return literals
