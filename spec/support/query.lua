--- Short ways to ask a tidemark.sqlite database, and to see that a call raises.

local query = {}

--- The first three values of the first row; nothing where there is none.
function query.first(db, sql, ...)
  local results
  for a, b, c in assert(db:rows(sql, ...)) do
    results = results or table.pack(a, b, c)
  end
  return table.unpack(results or {}, 1, 3)
end

--- The first column of all rows, an array.
function query.column(db, sql, ...)
  local values = {}
  for value in assert(db:rows(sql, ...)) do
    values[#values + 1] = value
  end
  return values
end

--- `first`, `column` and an `exec` that must succeed, all on the database that `get()` gives.
function query.on(get)
  local function first(...)
    return query.first(get(), ...)
  end
  local function column(...)
    return query.column(get(), ...)
  end
  local function exec(...)
    return assert(get():exec(...))
  end
  return first, column, exec
end

--- Calls `f(...)`, which must raise a message that matches `pattern`.
function query.raises(pattern, f, ...)
  local ok, message = pcall(f, ...)
  if ok or not tostring(message):find(pattern) then
    error(("must raise '%s', but: %s %s"):format(pattern, ok, message), 2)
  end
end

return query
