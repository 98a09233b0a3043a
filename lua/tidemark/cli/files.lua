--- Files and directories for commands that read and write them themselves (tidemark.SalvageFiles).

local uv = require "luv"

local files = {}

function files.list(directory)
  local request, message = uv.fs_scandir(directory)
  if not request then
    return nil, message
  end
  local names = {}
  for name in uv.fs_scandir_next, request do
    names[#names + 1] = name
  end
  return names
end

function files.open(path)
  return uv.fs_open(path, uv.constants.O_RDONLY | uv.constants.O_NONBLOCK, 0)
end

function files.size(fd)
  local status, message = uv.fs_fstat(fd)
  if status and status.type ~= "file" then
    return nil, "is not a plain file"
  end
  return status and status.size, message
end

function files.read(fd, size, offset)
  return uv.fs_read(fd, size, offset)
end

function files.create(path)
  return uv.fs_open(path, "wx", 384) -- 0600
end

function files.write(fd, bytes)
  while bytes ~= "" do
    local written, message = uv.fs_write(fd, bytes, -1)
    if not written then
      return nil, message
    end
    bytes = bytes:sub(written + 1)
  end
  return true
end

function files.sync(fd)
  return uv.fs_fsync(fd)
end

function files.close(fd)
  uv.fs_close(fd)
end

function files.sync_directory(path)
  local fd, message = uv.fs_open(path, "r", 0)
  if not fd then
    return nil, message
  end
  local ok
  ok, message = uv.fs_fsync(fd)
  uv.fs_close(fd)
  return ok, message
end

function files.make_directory(path)
  return uv.fs_mkdir(path, 448) -- 0700
end

function files.rename(from, to)
  return uv.fs_rename(from, to)
end

function files.remove(path)
  return uv.fs_unlink(path)
end

function files.remove_directory(path)
  return uv.fs_rmdir(path)
end

function files.real(path)
  return (uv.fs_realpath(path))
end

function files.fingerprint(path)
  local status = uv.fs_lstat(path)
  return status and ("%d %d %d %d.%d"):format(status.dev, status.ino, status.size, status.mtime.sec, status.mtime.nsec)
end

return files
