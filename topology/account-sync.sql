-- The table that account-sync.yaml writes. `State` holds the API's answer as it came.
CREATE TABLE Accounts (
  AccountId STRING(64) NOT NULL,
  State     JSON,
  UpdatedAt TIMESTAMP OPTIONS (allow_commit_timestamp = true)
) PRIMARY KEY (AccountId);
