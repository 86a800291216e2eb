"""Two databases as a user brings them, with questions that no run sees.

    python tests/own_databases.py FOLDER [--rows 2500000]

company.sqlite: the orders and customers of a small company, grown over years: names in two styles,
dates as text, three views, no declared foreign key.  plant.sqlite: the sensor log of a plant, its
readings in as many rows as wanted over the same sixty days.  Both are the same at every call.
goldens/own holds thirteen questions to each, and nine other examples such as a user writes down.
"""

import argparse
import json
import random
import sqlite3
import time
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

GOLDENS = Path(__file__).parent / "goldens/own"
ROWS = 2_500_000
COMPANY = """
CREATE TABLE tblCustomer (CustomerID INTEGER PRIMARY KEY, CompanyName TEXT, City TEXT, Country TEXT,
    Segment TEXT, CustomerSince TEXT, AccountManagerID INTEGER);
CREATE TABLE tblOrder (OrderID INTEGER PRIMARY KEY, CustomerID INTEGER, EmployeeID INTEGER,
    OrderDate TEXT, ShippedDate TEXT, Channel TEXT, Freight REAL);
CREATE TABLE order_lines (line_id INTEGER PRIMARY KEY, order_id INTEGER, product_id INTEGER,
    quantity INTEGER, unit_price REAL, discount REAL);
CREATE TABLE products (product_id INTEGER PRIMARY KEY, product_name TEXT, category_id INTEGER,
    supplier_id INTEGER, list_price REAL, units_in_stock INTEGER, discontinued INTEGER);
CREATE TABLE categories (category_id INTEGER PRIMARY KEY, category_name TEXT);
CREATE TABLE suppliers (supplier_id INTEGER PRIMARY KEY, supplier_name TEXT, country TEXT);
CREATE TABLE tblEmployee (EmployeeID INTEGER PRIMARY KEY, FirstName TEXT, LastName TEXT,
    Department TEXT, HireDate TEXT, Salary REAL, ManagerID INTEGER);
CREATE TABLE contacts (contact_id INTEGER PRIMARY KEY, customer_id INTEGER, full_name TEXT,
    role TEXT, email TEXT, phone TEXT);
CREATE TABLE activities (activity_id INTEGER PRIMARY KEY, customer_id INTEGER, employee_id INTEGER,
    kind TEXT, activity_date TEXT, minutes INTEGER, outcome TEXT);
CREATE TABLE invoices (invoice_id INTEGER PRIMARY KEY, order_id INTEGER, invoice_date TEXT,
    due_date TEXT, paid_date TEXT, amount REAL);
CREATE VIEW v_order_totals AS
    SELECT o.OrderID AS order_id, o.CustomerID AS customer_id, o.OrderDate AS order_date,
        ROUND(SUM(l.quantity * l.unit_price * (1 - l.discount)), 2) AS total
    FROM tblOrder o JOIN order_lines l ON l.order_id = o.OrderID GROUP BY o.OrderID;
CREATE VIEW v_monthly_sales AS
    SELECT substr(order_date, 1, 7) AS month, COUNT(*) AS orders, ROUND(SUM(total), 2) AS revenue
    FROM v_order_totals GROUP BY substr(order_date, 1, 7);
CREATE VIEW v_open_invoices AS
    SELECT i.invoice_id, c.CompanyName AS company_name, i.due_date, i.amount
    FROM invoices i JOIN tblOrder o ON o.OrderID = i.order_id
        JOIN tblCustomer c ON c.CustomerID = o.CustomerID WHERE i.paid_date IS NULL;
"""
PLANT = """
CREATE TABLE machine (machine_id INTEGER PRIMARY KEY, name TEXT, line TEXT, vendor TEXT,
    installed_on TEXT);
CREATE TABLE sensor (sensor_id INTEGER PRIMARY KEY, machine_id INTEGER, kind TEXT, unit TEXT,
    min_ok REAL, max_ok REAL);
CREATE TABLE reading (reading_id INTEGER PRIMARY KEY, sensor_id INTEGER, taken_at TEXT, value REAL);
CREATE TABLE alarm (alarm_id INTEGER PRIMARY KEY, sensor_id INTEGER, raised_at TEXT,
    cleared_at TEXT, severity TEXT);
CREATE TABLE maintenance (maintenance_id INTEGER PRIMARY KEY, machine_id INTEGER, done_on TEXT,
    kind TEXT, technician TEXT, hours REAL, cost REAL);
CREATE TABLE shift (shift_id INTEGER PRIMARY KEY, shift_date TEXT, shift_name TEXT, line TEXT,
    supervisor TEXT, pieces INTEGER, scrap INTEGER);
CREATE VIEW open_alarm AS
    SELECT a.alarm_id, m.name AS machine, s.kind AS sensor_kind, a.raised_at, a.severity
    FROM alarm a JOIN sensor s ON s.sensor_id = a.sensor_id
        JOIN machine m ON m.machine_id = s.machine_id WHERE a.cleared_at IS NULL;
CREATE VIEW daily_output AS
    SELECT shift_date, line, SUM(pieces) AS pieces, SUM(scrap) AS scrap
    FROM shift GROUP BY shift_date, line;
"""
# One sweep over all sensors every so many seconds of the sixty days; values wander in a band that
# each sensor leaves now and then.
READINGS = """
WITH RECURSIVE sweep (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM sweep WHERE i + 1 < :sweeps)
INSERT INTO reading SELECT i * :sensors + sensor_id, sensor_id, taken_at, ROUND(
    min_ok + (max_ok - min_ok) * (0.2 + (i * 7919 + sensor_id * 104729) % 8311 / 10000.0)
    + (max_ok - min_ok) * 0.002 * sensor_id * ((i + 7 * sensor_id) % 97 = 0), 2)
FROM (SELECT i, datetime('2024-04-01', (i * 5184000 / :sweeps) || ' seconds') AS taken_at
      FROM sweep) CROSS JOIN sensor
"""
FIRST = ("Anna Ben Clara David Elena Felix Greta Hugo Ines Jonas Karin Lukas Maria Nils Olga Paul "
         "Rosa Simon Tara Viktor").split()
LAST = ("Adler Bauer Costa Dubois Eriksen Fischer Garcia Hansen Ivanova Jansen Keller Lindgren "
        "Moreau Novak Olsen Peters Rossi Schmidt Torres Weber").split()
CITIES = {"Berlin": "Germany", "Hamburg": "Germany", "Munich": "Germany", "Paris": "France",
          "Lyon": "France", "Vienna": "Austria", "Graz": "Austria", "Zurich": "Switzerland",
          "Oslo": "Norway", "Milan": "Italy", "Madrid": "Spain", "Prague": "Czech Republic"}
CATEGORIES = {"Desks": 420, "Chairs": 260, "Lamps": 75, "Shelves": 180, "Monitors": 310,
              "Keyboards": 65, "Headsets": 90, "Printers": 340, "Paper": 12, "Pens": 5,
              "Cables": 14, "Docking Stations": 150}
LINES = {"Basic": 0.6, "Classic": 0.9, "Comfort": 1.1, "Pro": 1.5, "Studio": 2.0, "Eco": 0.8}
SENSORS = {"temperature": ("C", 40, 90), "vibration": ("mm/s", 0, 7), "pressure": ("bar", 2, 8),
           "current": ("A", 5, 40)}


def make(folder, rows=ROWS):
    """Write both databases into a folder; rows: of readings, about.  Their two paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return (build(folder / "company.sqlite", COMPANY, company),
            build(folder / "plant.sqlite", PLANT, plant, rows))


def build(path, script, tables, readings=0):
    """The path of a database with the rows that tables(rng) gives, {table: list of tuples}.  What
    is there is kept: a file is moved to its name when it is whole."""
    if path.exists():
        return path
    unfinished = path.with_suffix(".part")
    unfinished.unlink(missing_ok=True)
    with closing(sqlite3.connect(unfinished)) as db, db:
        db.executescript(script)
        for table, filled in tables(random.Random(path.stem)).items():
            marks = ", ".join("?" * len(filled[0]))
            db.executemany(f"INSERT INTO {table} VALUES ({marks})", filled)
        if readings:
            sensors, = db.execute("SELECT COUNT(*) FROM sensor").fetchone()
            db.execute(READINGS, {"sensors": sensors, "sweeps": readings // sensors})
    return unfinished.rename(path)


def day(start, after):
    return str(date.fromisoformat(start) + timedelta(after))


def company(rng):
    customers = company_customers(rng)
    products = company_products(rng)
    tables = {"tblCustomer": customers, "products": products,
              "categories": list(enumerate(CATEGORIES, 1)),
              "suppliers": [(i, f"{name} {kind}", rng.choice(list(CITIES.values())))
                            for i, (name, kind) in enumerate(
                                ((n, k) for k in ("Supply", "Trading") for n in LAST), 1)],
              "tblEmployee": company_employees(rng)}
    return tables | company_orders(rng, customers, products) | company_contacts(rng, customers)


def company_customers(rng):
    kinds = ("Consulting", "Logistics", "Bakery", "Architects", "Dental", "Media", "Law", "Motors",
             "Travel", "Pharma", "Energy", "Fitness", "Schools")
    names = rng.sample([f"{name} {kind}" for name in LAST for kind in kinds], 240)
    rows = []
    for i, name in enumerate(names, 1):
        city = rng.choice(list(CITIES))
        rows.append((i, name, city, CITIES[city],
                     rng.choice(("small business", "small business", "enterprise", "public")),
                     day("2019-01-01", rng.randrange(1900)), rng.randrange(1, 13)))
    return rows


def company_products(rng):
    rows = []
    for category, (name, price) in enumerate(CATEGORIES.items(), 1):
        for line, factor in LINES.items():
            for size in ("S", "M", "L"):
                rows.append((len(rows) + 1, f"{line} {name} {size}", category,
                             rng.randrange(1, 41), round(price * factor * rng.uniform(0.9, 1.2), 2),
                             rng.randrange(0, 400), int(rng.random() < 0.1)))
    return rows


def company_employees(rng):
    departments = ("Sales", "Sales", "Support", "Warehouse", "Finance")
    return [(i, FIRST[i % 20], LAST[(7 * i) % 20],
             "Sales" if i < 13 else departments[i % 5], day("2017-03-01", rng.randrange(2500)),
             round(rng.uniform(32000, 78000), -2), None if i == 1 else rng.choice((1, 2, 3)))
            for i in range(1, 31)]


def company_orders(rng, customers, products):
    orders, lines, invoices = [], [], []
    sold = products[:-8]                                        # the newest have no order yet
    buyers = [row for row in customers if row[0] % 12]          # some only asked for an offer
    for i in range(1, 1801):
        after = i * 545 // 1800 + rng.randrange(4)
        on = day("2023-01-02", after + (after % 7 == 6))            # closed on Sundays
        shipped = None if on > "2024-06-20" else day(on, rng.randrange(1, 15))
        orders.append((i, rng.choice(buyers)[0], rng.randrange(1, 13), on, shipped,
                       rng.choice(("web", "web", "phone", "e-mail", "partner")),
                       round(rng.uniform(5, 90), 2)))
        total = 0.0
        for product in rng.sample(sold, rng.choice((1, 2, 2, 3, 5))):
            quantity, discount = rng.randrange(1, 20), rng.choice((0, 0, 0, 0.05, 0.1))
            lines.append((len(lines) + 1, i, product[0], quantity, product[4], discount))
            total += quantity * product[4] * (1 - discount)
        if shipped and rng.random() < 0.95:
            paid = day(shipped, rng.randrange(3, 60))
            paid = None if rng.random() < 0.08 or paid > "2024-06-30" else paid
            invoices.append((len(invoices) + 1, i, shipped, day(shipped, 30), paid,
                             round(total, 2)))
    return {"tblOrder": orders, "order_lines": lines, "invoices": invoices}


def company_contacts(rng, customers):
    contacts, activities = [], []
    for i in range(1, 401):
        customer, first, last = rng.choice(customers), rng.choice(FIRST), rng.choice(LAST)
        contacts.append((i, customer[0], f"{first} {last}",
                         rng.choice(("buyer", "owner", "assistant", "accountant")),
                         None if rng.random() < 0.15 else
                         f"{first}.{last}@{customer[1].replace(' ', '-')}.example".lower(),
                         f"+49 30 {rng.randrange(10**6, 10**7)}"))
    active = [row for row in customers if row[0] % 9]
    for i in range(1, 2401):
        kind = rng.choice(("call", "call", "e-mail", "visit"))
        activities.append((i, rng.choice(active)[0], rng.randrange(1, 13), kind,
                           day("2023-01-02", i * 540 // 2400), rng.randrange(5, 90),
                           rng.choice(("offer sent", "no interest", "order", "call back", None))))
    return {"contacts": contacts, "activities": activities}


def plant(rng):
    machines = [(i, f"{kind}-{number:02}", line, rng.choice(("Kessler", "Ottavio", "Brandt")),
                 day("2012-01-01", rng.randrange(4000)))
                for i, (line, kind, number) in enumerate(
                    ((line, kind, n) for n, line in enumerate("ABC", 1)
                     for kind in ("Press", "Lathe", "Mill", "Oven")), 1)]
    sensors = [(4 * machine[0] + k - 3, machine[0], kind, unit, low, high)
               for machine in machines for k, (kind, (unit, low, high)) in
               enumerate(SENSORS.items())]
    alarms = []
    for i in range(1, 901):
        at = f"{day('2024-04-01', i * 60 // 901)} {rng.randrange(24):02}:{rng.randrange(60):02}:00"
        cleared = f"{day(at[:10], rng.randrange(1, 4))} {rng.randrange(24):02}:30:00"
        sensor = rng.choice(sensors[:rng.choice((8, 24, 44))])          # old machines raise more
        alarms.append((i, sensor[0], at, None if rng.random() < 0.1 else cleared,
                       rng.choice(("info", "warning", "warning", "critical"))))
    technicians = [f"{first} {last}" for first, last in zip(FIRST, LAST)][9:15]
    work = [(i, rng.choice(machines[:11])[0], day("2022-06-01", i * 729 // 300),
             rng.choice(("inspection", "repair", "oil change", "calibration")),
             rng.choice(technicians), round(rng.uniform(0.5, 9), 1),
             round(rng.uniform(40, 2500), 2)) for i in range(1, 301)]
    shifts = [(9 * d + 3 * k + n + 1, day("2024-04-01", d), name, line,
               f"{FIRST[(d // 7 + 3 * k + n) % 8]} {LAST[(d // 7 + 3 * k + n) % 8]}",
               rng.randrange(400, 900), rng.randrange(2, 45))
              for d in range(60) for k, line in enumerate("ABC")
              for n, name in enumerate(("early", "late", "night"))]
    return {"machine": machines, "sensor": sensors, "alarm": alarms, "maintenance": work,
            "shift": shifts}


def questions(name, kind="questions"):
    """[{"question", "sql"}] to the database of that name; kind: questions or examples."""
    return json.loads((GOLDENS / f"{name}_{kind}.json").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--rows", type=int, default=ROWS, help="of readings, about")
    options = parser.parse_args()
    started = time.time()
    for path in make(options.folder, options.rows):
        print(f"{path}: {path.stat().st_size / 1e6:.0f} MB")
    print(f"{time.time() - started:.1f} s")


if __name__ == "__main__":
    main()
