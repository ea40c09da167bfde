-- The users of create-user.yaml. An email has one user: the first one to ask for it.
CREATE TABLE users (email text PRIMARY KEY, id text NOT NULL UNIQUE, name text NOT NULL, created_at timestamptz NOT NULL);
