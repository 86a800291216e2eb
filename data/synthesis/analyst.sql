-- Queries that analysts ask of their own databases and that the training data of benchmarks lacks.
-- The statements that create are the schema of those that select; each of these is a template.

CREATE TABLE customer (customer_id INTEGER PRIMARY KEY, name TEXT, city TEXT, joined DATE);
CREATE TABLE orders (order_id INTEGER PRIMARY KEY,
                     customer_id INTEGER REFERENCES customer (customer_id), ordered DATE,
                     shipped DATE, status TEXT, note TEXT, quantity INTEGER, price REAL,
                     gift BOOLEAN);
CREATE VIEW open_orders AS SELECT ordered, status, quantity, price FROM orders
                           WHERE shipped IS NULL;

-- Dates: by day, month and year
SELECT date(ordered), AVG(price) FROM orders GROUP BY date(ordered);
SELECT COUNT(*) FROM orders WHERE date(ordered) = '2024-05-03';
SELECT strftime('%Y-%m', ordered), COUNT(*) FROM orders GROUP BY strftime('%Y-%m', ordered);
SELECT strftime('%Y', ordered), COUNT(*) FROM orders GROUP BY strftime('%Y', ordered);
SELECT strftime('%Y-%m', ordered), SUM(price) FROM orders GROUP BY strftime('%Y-%m', ordered);
SELECT substr(ordered, 1, 4), AVG(price) FROM orders GROUP BY substr(ordered, 1, 4);
SELECT substr(ordered, 1, 7), COUNT(*) FROM orders WHERE status = 'paid'
       GROUP BY substr(ordered, 1, 7);
SELECT strftime('%m', ordered) FROM orders GROUP BY strftime('%m', ordered)
       ORDER BY COUNT(*) DESC LIMIT 1;
SELECT COUNT(*) FROM orders WHERE strftime('%Y', ordered) = '2024';
SELECT SUM(price) FROM orders WHERE strftime('%Y-%m', ordered) = '2024-05';
SELECT status, COUNT(*) FROM orders WHERE strftime('%Y', ordered) = '2024' GROUP BY status;
SELECT T1.name FROM customer AS T1 JOIN orders AS T2 ON T1.customer_id = T2.customer_id
       WHERE strftime('%Y-%m', T2.ordered) = '2024-05';

-- Dates: between two days, the last days that the data has, time between two dates
SELECT COUNT(*) FROM orders WHERE ordered BETWEEN '2024-01-01' AND '2024-03-31';
SELECT SUM(price) FROM orders WHERE ordered >= '2024-01-01' AND ordered < '2024-07-01';
SELECT COUNT(*) FROM orders
       WHERE ordered >= (SELECT date(MAX(ordered), '-30 days') FROM orders);
SELECT SUM(price) FROM orders
       WHERE ordered >= (SELECT date(MAX(ordered), '-7 days') FROM orders);
SELECT status, COUNT(*) FROM orders
       WHERE ordered >= (SELECT date(MAX(ordered), '-90 days') FROM orders) GROUP BY status;
SELECT AVG(julianday(shipped) - julianday(ordered)) FROM orders;
SELECT status, AVG(julianday(shipped) - julianday(ordered)) FROM orders GROUP BY status;
SELECT COUNT(*) FROM orders WHERE julianday(shipped) - julianday(ordered) > 5;

-- Arithmetic and shares
SELECT SUM(quantity * price) FROM orders;
SELECT status, SUM(quantity * price) FROM orders GROUP BY status;
SELECT T1.name, SUM(T2.quantity * T2.price) FROM customer AS T1
       JOIN orders AS T2 ON T1.customer_id = T2.customer_id
       GROUP BY T1.name ORDER BY SUM(T2.quantity * T2.price) DESC LIMIT 3;
SELECT MAX(price) - MIN(price) FROM orders;
SELECT 100.0 * COUNT(*) / (SELECT COUNT(*) FROM orders) FROM orders WHERE status = 'paid';
SELECT 100.0 * COUNT(*) / (SELECT COUNT(*) FROM orders) FROM orders WHERE price > 100;
SELECT status, 100.0 * COUNT(*) / (SELECT COUNT(*) FROM orders) FROM orders GROUP BY status;
SELECT status, 100.0 * SUM(price) / (SELECT SUM(price) FROM orders) FROM orders GROUP BY status;

-- What is missing and what is not
SELECT COUNT(*) FROM orders WHERE shipped IS NULL;
SELECT COUNT(*) FROM orders WHERE note IS NOT NULL;
SELECT status, COUNT(*) FROM orders WHERE shipped IS NULL GROUP BY status;
SELECT name FROM customer WHERE city IS NULL;
SELECT name FROM customer WHERE joined IS NOT NULL;

-- Buckets, flags and codes
SELECT CASE WHEN price < 20 THEN 'low' WHEN price < 100 THEN 'medium' ELSE 'high' END, COUNT(*)
       FROM orders
       GROUP BY CASE WHEN price < 20 THEN 'low' WHEN price < 100 THEN 'medium' ELSE 'high' END;
SELECT status, SUM(CASE WHEN price > 100 THEN 1 ELSE 0 END) FROM orders GROUP BY status;
SELECT SUM(CASE WHEN status = 'paid' THEN price ELSE 0 END) FROM orders;
SELECT COUNT(*) FROM orders WHERE gift = 1;
SELECT gift, COUNT(*), AVG(price) FROM orders GROUP BY gift;
SELECT status, SUM(CASE WHEN gift = 1 THEN 1 ELSE 0 END) FROM orders GROUP BY status;

-- The top of each group
SELECT T1.status, T1.note, T1.price FROM orders AS T1
       WHERE T1.price = (SELECT MAX(T2.price) FROM orders AS T2 WHERE T2.status = T1.status);
SELECT T1.status, T1.note, T1.price FROM orders AS T1
       WHERE (SELECT COUNT(*) FROM orders AS T2
              WHERE T2.status = T1.status AND T2.price > T1.price) < 3;
SELECT T1.status, T1.order_id, T1.price FROM orders AS T1
       WHERE T1.price = (SELECT MAX(T2.price) FROM orders AS T2 WHERE T2.status = T1.status);
SELECT T1.customer_id, T1.order_id, T1.ordered FROM orders AS T1
       WHERE T1.ordered = (SELECT MAX(T2.ordered) FROM orders AS T2
                           WHERE T2.customer_id = T1.customer_id);
SELECT T1.status, T1.note, T1.ordered FROM orders AS T1
       WHERE T1.ordered = (SELECT MAX(T2.ordered) FROM orders AS T2 WHERE T2.status = T1.status);

-- Views: tables without keys, that all of the above which need none ask about, too
SELECT status, COUNT(*), SUM(price) FROM open_orders GROUP BY status;
SELECT * FROM open_orders WHERE status = 'paid' ORDER BY ordered DESC LIMIT 5;
