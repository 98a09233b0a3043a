--- What commands show: results on standard output, progress on standard error, bars, and tables.

local uv = require "luv"

local terminal = {}

local BAR = 20 -- characters
local EVERY_TERMINAL, EVERY_FILE = 0.1, 5 -- seconds between two lines of progress
local EPIPE = 32
-- Begins the line anew; a line that is too long for the terminal is cut and not wrapped, or it could not be removed.
local CLEAR, NO_WRAP, WRAP = "\r\27[K", "\27[?7l", "\27[?7h"

--- Writes to standard output, at once.
---@param ... string
---@return boolean? ok
---@return string? message what went wrong; nil when nobody reads any more, which is no failure
function terminal.write(...)
  local ok, message, errno = io.stdout:write(...)
  if ok then
    ok, message, errno = io.stdout:flush()
  end
  if ok then
    return true
  end
  return nil, errno ~= EPIPE and "standard output: " .. message or nil
end

--- A bar such as [#######-------------].
---@param part number
---@param whole number
---@return string
function terminal.bar(part, whole)
  local filled = whole > 0 and math.floor(BAR * math.min(part / whole, 1)) or BAR
  return "[" .. ("#"):rep(filled) .. ("-"):rep(BAR - filled) .. "]"
end

--- An integer with commas between its thousands.
---@param number integer
---@return string
function terminal.thousands(number)
  local sign, digits = ("%d"):format(number):match "^(-?)(%d+)$"
  digits = digits:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "")
  return sign .. digits
end

--- How many of a thing: "1 record", "2,000 records".
---@param number integer
---@param one string
---@param many? string default: `one` with an s
---@return string
function terminal.amount(number, one, many)
  return terminal.thousands(number) .. " " .. (number == 1 and one or many or one .. "s")
end

--- Lines of equal columns; a column whose cells are all numbers (with commas) is set to the right.
---@param rows string[][] the first one is the heading
---@return string
function terminal.table(rows)
  local widths, is_number = {}, {}
  for i, row in ipairs(rows) do
    for column, cell in ipairs(row) do
      widths[column] = math.max(widths[column] or 0, #cell)
      is_number[column] = i == 1 or is_number[column] and cell:match "^-?[%d,]*$" ~= nil
    end
  end
  local lines = {}
  for i, row in ipairs(rows) do
    local cells = {}
    for column, cell in ipairs(row) do
      local space = (" "):rep(widths[column] - #cell)
      cells[column] = is_number[column] and space .. cell or cell .. space
    end
    lines[i] = (table.concat(cells, "  "):gsub(" +$", ""))
  end
  return table.concat(lines, "\n")
end

---@class tidemark.Progress
local Progress = {}
Progress.__index = Progress

--- Progress on standard error: a line that is written over while it is a terminal, otherwise a new line every few seconds if it has
--- changed.
---@return tidemark.Progress
function terminal.progress()
  local is_terminal = uv.guess_handle(2) == "tty"
  local every = is_terminal and EVERY_TERMINAL or EVERY_FILE
  return setmetatable({ is_terminal = is_terminal, every = every, shown = nil, due = uv.hrtime() / 1e9 + every }, Progress)
end

--- Shows the line if it is time to; `make_line` is called only then.
---@param make_line fun(): string
function Progress:show(make_line)
  local now = uv.hrtime() / 1e9
  if now < self.due then
    return
  end
  self.due = now + self.every
  local line = make_line()
  if line == self.shown then
    return
  end
  self.shown = line
  if self.is_terminal then
    line = CLEAR .. NO_WRAP .. line .. WRAP
  else
    line = line .. "\n"
  end
  io.stderr:write(line)
end

--- Removes the line from a terminal; to be called before anything else is written there.
function Progress:clear()
  if self.is_terminal and self.shown then
    io.stderr:write(CLEAR)
    self.shown = nil
  end
end

return terminal
