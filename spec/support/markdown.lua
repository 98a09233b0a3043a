--- Reads the project's Markdown: fenced blocks and tables.

local markdown = {}

---@param path string
---@return string
function markdown.read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

---@class Block
---@field language string
---@field name string? what follows the language, a file name
---@field text string
---@field line integer of the first line of `text`

--- The fenced blocks of a page, in order; those in a list item lose its indentation.
---@param text string
---@return Block[]
function markdown.blocks(text)
  local blocks, block, indent = {}, nil, nil
  local number = 0
  for line in (text .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    local space, info = line:match "^(%s*)```(.*)$"
    if block and space then
      block.text = table.concat(block.lines, "\n") .. "\n"
      block.lines = nil
      blocks[#blocks + 1], block = block, nil
    elseif space then
      indent = #space
      local language, name = info:match "^(%S*)%s*(%S*)"
      block = { language = language, name = name ~= "" and name or nil, lines = {}, line = number + 1 }
    elseif block then
      block.lines[#block.lines + 1] = line:sub(1, indent):match "^%s*$" and line:sub(indent + 1) or line
    end
  end
  assert(not block, "a fenced block is not closed")
  return blocks
end

--- The rows of the first table after `marker` (plain text), each a list of cells, without heading.
---@param text string
---@param marker string
---@return string[][]
function markdown.table_after(text, marker)
  local _, start = text:find(marker, 1, true)
  assert(start, "no such place: " .. marker)
  local rows, started = {}, false
  for line in text:sub(start):gmatch "[^\n]*" do
    if line:match "^|" then
      started = true
      local row = {}
      for cell in line:gmatch "|%s*([^|]*)" do
        row[#row + 1] = cell:match "^(.-)%s*$"
      end
      rows[#rows + 1] = row
    elseif started and line ~= "" then
      break
    end
  end
  return { table.unpack(rows, 3) }
end

return markdown
