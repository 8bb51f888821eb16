CREATE TABLE first_start (what VARCHAR(16) PRIMARY KEY);
INSERT INTO first_start VALUES ('initdb.d');
