-- The posts of topology/blog.yaml.
CREATE TABLE posts (
  uid        text PRIMARY KEY,
  title      text NOT NULL,
  content    text NOT NULL,
  slug       text NOT NULL UNIQUE,        -- made from title and uid; the cache's key is post:SLUG
  created_at timestamptz NOT NULL         -- the time of the message
);
