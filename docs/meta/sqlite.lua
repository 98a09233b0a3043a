---@meta tidemark.sqlite
--- Types of the SQLite binding for language servers (LuaCATS). Never loaded at run time. Results and errors: docs/reference.md.

---@class tidemark.sqlite
local sqlite = {}

---@alias tidemark.sqlite.Code
---| "ABORT"
---| "BUSY"
---| "CANTOPEN"
---| "CONSTRAINT"
---| "CORRUPT"
---| "DENIED"
---| "ERROR"
---| "FULL"
---| "IO"
---| "LOCKED"
---| "MISMATCH"
---| "NOTADB"
---| "NOT_FOUND"
---| "PROTOCOL"
---| "READONLY"
---| "SCHEMA"
---| "TOOBIG"
---| "UNSUPPORTED"

---@class tidemark.sqlite.Options
---@field readonly? boolean true: change nothing; never makes the file
---@field create? boolean false: the file must be there
---@field busy_timeout? number seconds that a call waits for another connection, 0..2147483, 5 by default

---@class tidemark.sqlite.Blob a string that is stored as BLOB

---@alias tidemark.sqlite.Value nil|boolean|integer|number|string|tidemark.sqlite.Blob

---Opens a database file.
---@param path string not empty, not ":memory:"
---@param options? tidemark.sqlite.Options
---@return tidemark.sqlite.Database? db
---@return string? message
---@return tidemark.sqlite.Code? code
function sqlite.open(path, options) end

---@param bytes string
---@return tidemark.sqlite.Blob
function sqlite.blob(bytes) end

---Database.exec, as a method for a class whose objects have a database at [1].
---@param object table
---@param sql string
---@param ... tidemark.sqlite.Value one for each parameter
---@return integer? changed
---@return string? message
---@return tidemark.sqlite.Code? code
function sqlite.exec(object, sql, ...) end

---Database.rows, likewise.
---@param object table
---@param sql string
---@param ... tidemark.sqlite.Value one for each parameter
---@return (fun(): ...: nil|integer|number|string)? iterator
---@return string? message
---@return tidemark.sqlite.Code? code
---@return tidemark.sqlite.Rows? rows
function sqlite.rows(object, sql, ...) end

---@class tidemark.sqlite.Database one connection, for one lua_State, never used after a fork
local Database = {}

---Runs one statement to its end.
---@param sql string
---@param ... tidemark.sqlite.Value one for each parameter
---@return integer? changed rows, 0 for a statement that changes none
---@return string? message
---@return tidemark.sqlite.Code? code
function Database:exec(sql, ...) end

---Iterates over the rows of one statement. Each call of the iterator gives the values of a row; it raises on an error.
---@param sql string
---@param ... tidemark.sqlite.Value one for each parameter
---@return (fun(): ...: nil|integer|number|string)? iterator
---@return string? message
---@return tidemark.sqlite.Code? code
---@return tidemark.sqlite.Rows? rows the loop's closing value
function Database:rows(sql, ...) end

---Whether a transaction is open, be it that of a statement which writes and gives rows and has not ended.
---@return boolean
function Database:in_transaction() end

---Undoes the open transaction, if any, also a guarded one, and turns the guard off; where it fails, the guard is on afterwards.
---@return true? done
---@return string? message
---@return tidemark.sqlite.Code? code
function Database:rollback() end

---For who runs somebody else's function inside a transaction. While it is on, COMMIT (which rolls back, if anything was changed) and
---ROLLBACK raise, and so does a statement outside of a transaction.
---@param on boolean
function Database:guard(on) end

---Rolls back an open transaction and ends running iterators. May be called again.
function Database:close() end

---@class tidemark.sqlite.Rows
local Rows = {}

---Ends the iteration. May be called again.
function Rows:close() end

return sqlite
