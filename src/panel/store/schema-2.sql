-- Version 2. The name of the token by which something was done; it may be revoked by the time it is read.

ALTER TABLE activity ADD COLUMN token TEXT;
