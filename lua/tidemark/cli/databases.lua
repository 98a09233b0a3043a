--- Databases of followers, for commands that are given a file and must know what it is.

local typed = require "tidemark.cli.typed"

local MAGIC = "SQLite format 3\0"

local databases = {}

--- Whether a file is an SQLite database.
---@param path string
---@return boolean
function databases.is_one(path)
  local file = io.open(path, "rb")
  local magic = file and file:read(#MAGIC)
  if file then
    file:close()
  end
  return magic == MAGIC
end

--- Opens a database without changing it.
---@param path string
---@return tidemark.FollowerDb? db
---@return string? message
---@return string? code
function databases.look(path)
  local found, FollowerDb = pcall(require, "tidemark.follower_db")
  if not found then
    return nil, path .. ": is a database, and to look into it needs " .. typed.SQLITE
  end
  return FollowerDb.open(path, nil, { readonly = true })
end

return databases
