--- What commands show: progress on standard error, bars, and tables.

local uv = require "luv"

local terminal = {}

local BAR = 20 -- characters
local EVERY_TERMINAL, EVERY_FILE = 0.1, 5 -- seconds between two lines of progress

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
  local text = ("%d"):format(number):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (text:gsub("^,", ""))
end

--- Lines of equal columns; a column whose cells are all numbers (with commas) is set to the right.
---@param rows string[][] the first one is the heading
---@return string
function terminal.table(rows)
  local widths, is_number = {}, {}
  for i, row in ipairs(rows) do
    for column, cell in ipairs(row) do
      widths[column] = math.max(widths[column] or 0, #cell)
      is_number[column] = (i == 1 or is_number[column]) and (i == 1 or cell:match "^[%d,]*$" ~= nil or cell == "-")
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

--- Progress on standard error: a line that is written over while it is a terminal, otherwise a new line every few seconds.
---@return tidemark.Progress
function terminal.progress()
  local is_terminal = uv.guess_handle(2) == "tty"
  local every = is_terminal and EVERY_TERMINAL or EVERY_FILE
  return setmetatable({ is_terminal = is_terminal, every = every, shown = false, due = uv.hrtime() / 1e9 + every }, Progress)
end

--- Shows the line if it is time to; `make_line` is called only then.
---@param make_line fun(): string
function Progress:show(make_line)
  local now = uv.hrtime() / 1e9
  if now < self.due then
    return
  end
  self.due = now + self.every
  self.shown = true
  io.stderr:write(self.is_terminal and "\r\27[K" or "", make_line(), self.is_terminal and "" or "\n")
  io.stderr:flush()
end

--- Removes the line from a terminal.
function Progress:finish()
  if self.is_terminal and self.shown then
    io.stderr:write "\r\27[K"
  end
end

return terminal
