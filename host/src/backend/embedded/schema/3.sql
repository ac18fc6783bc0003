-- What attempts called over HTTP, as JSON. An attempt that called has a row even if it was done at once.
ALTER TABLE attempts ADD COLUMN calls TEXT;
