"""The demo world: eight everyday databases and the words people use for what is in them.

Nothing here computes anything but rows; data/demo/make.py turns it into SQL files and questions.
How a phrase is written:

    a|b|~c         alternatives; one that starts with ~ occurs in test questions only
    *              the table's noun ("books"); words before it precede the noun, others follow it
    #              in a relation: the noun of the many side, in the plural
    {}             a value, a name or another noun phrase
    [play/plays]   plural / singular verb
    (are)          spoken only where the phrase is the predicate: "players from Peru", but
                   "which players are from Peru"
"""

import datetime
import random
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    """One column: its SQL declaration, nouns for it, how to fill it, and phrases by use.

    say: eq ne gt lt mid (conditions), hi lo (superlatives), above below (compared with another
    row or the average), ask (a whole question about one named row), each top (grouped counts).
    fill: None (the hand-written field), a tuple (low, high, step), a str of alternatives.
    """
    name: str
    type: str
    nouns: str
    fill: object
    null: float              # share of NULLs among filled rows
    fk: str                  # referenced table
    kind: str                # text, number, year, date or key
    total: bool              # a sum over rows means something
    say: dict


@dataclass(frozen=True)
class Table:
    name: str
    nouns: str
    columns: tuple
    label: str               # the column that names a row, '' where rows have no name
    named: str               # how a row is called by its label, as "flight {}"
    rows: str                # hand-written fields: rows split by ';', fields by ','
    count: int               # rows to make where none are hand-written

    def __getitem__(self, name):
        return next(c for c in self.columns if c.name == name)

    @property
    def key(self):
        return self.columns[0].name

    @property
    def person(self):
        return any("* who " in text for c in self.columns for text in c.say.values())


@dataclass(frozen=True)
class Relation:
    """A foreign key `child.column`, or two of a bridge: `bridge.column_a+bridge.column_b`.

    Its two ends are a (the many side of a foreign key) and b. say: a (the noun of a, filled
    with b), b (the noun of b, filled with a), none_a none_b (without any), some_b (with at
    least one), who (asks for b given a name of a), role (b as seen from a), many most n
    (counts of a per b).
    """
    path: str
    say: dict


@dataclass(frozen=True)
class World:
    db_id: str
    tables: tuple
    relations: tuple
    unions: tuple = field(default=())    # pairs of columns whose values can be put together

    def __getitem__(self, name):
        return next(t for t in self.tables if t.name == name)


def column(declared, nouns="", fill=None, null=0.0, fk="", total=False, year=False, **say):
    name, type_ = declared.split()
    kinds = {"TEXT": "text", "DATE": "date"}
    kind = "key" if fk or not nouns else "year" if year else kinds.get(type_, "number")
    return Column(name, type_, nouns, fill, null, fk, kind, total, say)


def table(name, nouns, *columns, label="", named="{}", rows="", count=0):
    return Table(name, nouns, columns, label, named, rows, count)


def relation(path, **say):
    return Relation(path, say)


# ---------------------------------------------------------------------------------------------
# Phrases that several databases share

AGE = dict(
    eq="* (are) aged {}|* who [are/is] {} years old",
    gt="* (are) older than {}|* (are) over {} years old|~* aged over {}",
    lt="* (are) younger than {}|* (are) under {} years old|~* aged under {}",
    mid="* (are) aged between {} and {}|* (are) between {} and {} years old",
    above="* (are) older than {}", below="* (are) younger than {}",
    hi="oldest *", lo="youngest *", ask="How old is {}|~What age is {}")
BORN = dict(
    eq="* (were) born in {}", gt="* (were) born after {}", lt="* (were) born before {}",
    mid="* (were) born between {} and {}", above="* (were) born after {}",
    below="* (were) born before {}", hi="youngest *|* born most recently",
    lo="oldest *|* born earliest", ask="When was {} born|In which year was {} born|"
    "~What year was {} born in")
HOME = dict(
    eq="* who [live/lives] in {}|* (are) living in {}|* (are) from {}|~* whose home is {}",
    ne="* who [do/does] not live in {}|* (are) not from {}|~* who [live/lives] outside {}",
    each="live in {}|are from {}", top="Where do the most # live|In which {} do the most # live",
    ask="Where does {} live|Which {noun} does {} live in")
FROM = dict(
    eq="* (are) from {}|* who [come/comes] from {}|~* (are) originally from {}",
    ne="* (are) not from {}|* who [do/does] not come from {}",
    each="are from {}|come from {}", top="Which {} do the most # come from",
    ask="Where is {} from|Which {noun} does {} come from|~Where does {} come from")
PLACE = dict(
    eq="* (are) in {}|* (are) located in {}|~* (are) situated in {}",
    ne="* (are) not in {}|* (are) located outside {}", each="are in {}|are located in {}",
    ask="Where is {} located|Which {noun} is {} in")
COST = dict(
    gt="* that [cost/costs] more than {}|* (are) priced above {}|~* (are) dearer than {}",
    lt="* that [cost/costs] less than {}|* (are) cheaper than {}|~* (are) priced below {}",
    mid="* that [cost/costs] between {} and {}|* (are) priced between {} and {}",
    above="* (are) more expensive than {}", below="* (are) cheaper than {}",
    hi="most expensive *|~priciest *", lo="cheapest *|least expensive *",
    ask="How much does {} cost|~How expensive is {}")
PAY = dict(
    gt="* who [earn/earns] more than {}|* (are) paid more than {}",
    lt="* who [earn/earns] less than {}|* (are) paid less than {}",
    mid="* who [earn/earns] between {} and {}", above="* who [earn/earns] more than {}",
    below="* who [earn/earns] less than {}", hi="best paid *|* who [earn/earns] the most",
    lo="worst paid *|* who [earn/earns] the least",
    ask="How much does {} earn|~How much is {} paid")

FIRST = ("Anna Omar Lucia Peter Maria James Sofia Daniel Emma Carlos Nadia Henry Julia "
         "Samuel Clara Victor Elena Thomas Alice Marco Sarah David Ingrid Paul Leila "
         "Hugo Rosa Martin Grace Ivan Helen Felix Nora Oscar Diana Simon Laura George "
         "Amina Lukas").split()
LAST = ("Silva Novak Garcia Miller Rossi Khan Dubois Weber Jensen Costa Brown Tanaka "
        "Murphy Kovacs Lopez Fischer Moreau Wilson Haddad Berg Santos Walker Ricci "
        "Olsen Patel Young Marino Keller Reyes Hughes Larsen Bauer Romano Scott "
        "Petrov Adams Mendez Cooper Yilmaz Lind").split()


# ---------------------------------------------------------------------------------------------
# Rows

def fill_rows(world, rng):
    """{table name: list of row tuples}; foreign keys lean to the first rows of their target, so
    that some rows there are popular and some have nothing that refers to them."""
    rows = {}
    for tab in world.tables:
        fields = [r.split(",") for r in " ".join(tab.rows.split()).split(";") if r.strip()]
        rows[tab.name], seen = [], []
        people = iter([f"{f} {n}" for f, n in zip(rng.sample(FIRST, 40), rng.sample(LAST, 40))])
        while len(rows[tab.name]) < (len(fields) or tab.count):
            n = len(rows[tab.name])
            given = iter(f.strip() for f in fields[n]) if fields else iter(())
            row = tuple(cell(world, rows, col, n, given, people, rng) for col in tab.columns)
            pair = [v for col, v in zip(tab.columns, row) if col.fk]
            if len(pair) > len(set(pair)) and tab.columns[1].fk == tab.columns[2].fk:
                continue                                 # a flight from an airport to itself
            if tab.columns[0].fk and pair in seen:
                continue                                 # a bridge's key is its pair of keys
            seen.append(pair)
            rows[tab.name].append(row)
    return rows


def cell(world, rows, col, n, given, people, rng):
    if col.null and rng.random() < col.null:
        return None
    if col.fk and col.fill == "any":
        targets = rows[col.fk]           # of a self-reference, the rows so far
        return targets[int(len(targets) * rng.random() ** 1.6)][0] if targets else None
    if col.fill == "person":
        return next(people)
    if col.fill == "flight":
        return f"{rng.choice(('BA', 'AF', 'LH', 'IB'))}{113 + 7 * n}"
    if isinstance(col.fill, str):
        return rng.choice(col.fill.split("|"))
    if col.fill and col.type == "DATE":
        start = datetime.date(col.fill[0], 1, 1)
        days = (datetime.date(col.fill[1], 12, 31) - start).days
        return str(start + datetime.timedelta(rng.randint(0, days)))
    if col.fill:
        low, high, step = col.fill
        value = low + step * rng.randint(0, int((high - low) / step))
        return quarters(value) if col.type == "REAL" else value
    if col.kind == "key" and not col.fk:
        return n + 1
    return typed(world, rows, col, next(given))


def typed(world, rows, col, text):
    """A hand-written field as its column's type; a foreign key is written as the row's label."""
    if text == "-":
        return None
    if col.fk:
        target = world[col.fk]
        at = [c.name for c in target.columns].index(target.label)
        return next(r[0] for r in rows[col.fk] if r[at] == text)
    return {"INTEGER": int, "REAL": quarters}.get(col.type, str)(text)


def quarters(value):
    """Rounded to quarters: their sums are exact, so no answer depends on the order of rows."""
    return round(float(value) * 4) / 4


# ---------------------------------------------------------------------------------------------
# The databases

LIBRARY = World("library", (
    table("author", "author|writer|~novelist",
          column("author_id INTEGER"),
          column("name TEXT", "name|~full name"),
          column("country TEXT", "country|home country", **FROM),
          column("birth_year INTEGER", "birth year|year of birth", year=True, **BORN),
          label="name", rows="""
          Stephen King,USA,1947; Agatha Christie,England,1890; Jane Austen,England,1775;
          Jules Verne,France,1828; Victor Hugo,France,1802; Ursula Le Guin,USA,1929;
          Leo Tolstoy,Russia,1828; Gabriel Garcia Marquez,Colombia,1927;
          Fyodor Dostoevsky,Russia,1821; Haruki Murakami,Japan,1949; Umberto Eco,Italy,1932;
          Mary Shelley,England,1797; Toni Morrison,USA,1931; Isabel Allende,Chile,1942;
          Astrid Lindgren,Sweden,1907; Franz Kafka,Czechia,1883; Yasunari Kawabata,Japan,1899"""),
    table("book", "book|~volume",
          column("book_id INTEGER"),
          column("title TEXT", "title"),
          column("author_id INTEGER", fk="author"),
          column("genre TEXT", "genre|~kind", eq="{} *|* in the {} genre|* whose genre is {}",
                 ne="* (are) not in the {} genre|* outside the {} genre",
                 each="belong to {}|are there in {}",
                 ask="What genre is {}|Which genre does {} belong to"),
          column("published INTEGER", "publication year|year of publication", year=True,
                 eq="* (were) published in {}|* that came out in {}",
                 gt="* (were) published after {}|* that came out after {}",
                 lt="* (were) published before {}|* that came out before {}",
                 mid="* (were) published between {} and {}", above="* (were) published after {}",
                 below="* (were) published before {}", hi="newest *|most recent *|~latest *",
                 lo="oldest *|earliest *",
                 ask="When was {} published|When did {} come out|~In what year did {} appear"),
          column("pages INTEGER", "page count|number of pages", total=True,
                 gt="* with more than {} pages|* (are) longer than {} pages|"
                 "~* (are) over {} pages long", lt="* with fewer than {} pages|"
                 "* (are) shorter than {} pages|~* (are) under {} pages long",
                 mid="* with {} to {} pages|* with between {} and {} pages",
                 above="* (are) longer than {}", below="* (are) shorter than {}",
                 hi="longest *|* with the most pages|~thickest *",
                 lo="shortest *|* with the fewest pages|~thinnest *",
                 ask="How many pages does {} have|How long is {}"),
          label="title", rows="""
          The Shining,Stephen King,horror,1977,447; Misery,Stephen King,horror,1987,310;
          Carrie,Stephen King,horror,1974,199; The Stand,Stephen King,fantasy,1978,823;
          Murder on the Orient Express,Agatha Christie,crime,1934,256;
          Death on the Nile,Agatha Christie,crime,1937,288;
          And Then There Were None,Agatha Christie,crime,1939,272;
          Pride and Prejudice,Jane Austen,romance,1813,432; Emma,Jane Austen,romance,1815,474;
          Persuasion,Jane Austen,romance,1817,249;
          Kafka on the Shore,Haruki Murakami,fantasy,2002,505;
          Around the World in Eighty Days,Jules Verne,adventure,1872,252;
          Twenty Thousand Leagues Under the Sea,Jules Verne,science fiction,1870,320;
          The Mysterious Island,Jules Verne,adventure,1875,493;
          War and Peace,Leo Tolstoy,historical,1869,1225;
          Anna Karenina,Leo Tolstoy,romance,1878,864;
          One Hundred Years of Solitude,Gabriel Garcia Marquez,fantasy,1967,417;
          Love in the Time of Cholera,Gabriel Garcia Marquez,romance,1985,348;
          Norwegian Wood,Haruki Murakami,romance,1988,296;
          Frankenstein,Mary Shelley,horror,1818,280;
          A Wizard of Earthsea,Ursula Le Guin,fantasy,1968,205;
          The Dispossessed,Ursula Le Guin,science fiction,1975,341;
          The Left Hand of Darkness,Ursula Le Guin,science fiction,1969,304;
          The Name of the Rose,Umberto Eco,crime,1980,512;
          Foucault's Pendulum,Umberto Eco,adventure,1989,641;
          Les Miserables,Victor Hugo,historical,1862,1463;
          The Hunchback of Notre-Dame,Victor Hugo,historical,1831,940;
          The Man Who Laughs,Victor Hugo,historical,1869,720;
          Crime and Punishment,Fyodor Dostoevsky,crime,1866,671;
          Beloved,Toni Morrison,historical,1986,324;
          The House of the Spirits,Isabel Allende,historical,1982,433;
          Snow Country,Yasunari Kawabata,romance,1948,175"""),
    table("member", "member|~card holder",
          column("member_id INTEGER"),
          column("name TEXT", "name|~full name", "person"),
          column("city TEXT", "city|home city", "Boston|Boston|Chicago|Denver|Seattle|Miami",
                 **HOME),
          column("age INTEGER", "age", (16, 78, 1), **AGE),
          column("joined DATE", "joining date|~date of joining", (2019, 2023),
                 gt="* who joined after {}", lt="* who joined before {}",
                 mid="* who joined between {} and {}", above="* who joined after {}",
                 below="* who joined before {}", hi="newest *|* who joined most recently",
                 lo="* who joined first|~longest-standing *", ask="When did {} join"),
          label="name", count=24),
    table("loan", "loan",
          column("loan_id INTEGER"),
          column("book_id INTEGER", fk="book", fill="any"),
          column("member_id INTEGER", fk="member", fill="any"),
          column("borrowed DATE", "loan date|borrowing date", (2022, 2024),
                 gt="* (were) made after {}", lt="* (were) made before {}",
                 mid="* (were) made between {} and {}"),
          column("days INTEGER", "length in days|number of days", (2, 60, 1),
                 gt="* that lasted more than {} days|* (are) longer than {} days",
                 lt="* that lasted less than {} days|* (are) shorter than {} days"),
          column("fine REAL", "fine", (0.5, 12, 0.25), null=0.4, total=True,
                 gt="* with a fine of more than {}|* with a fine over {}",
                 lt="* with a fine of less than {}|* with a fine under {}"),
          count=90)), (
    relation("book.author_id", a="* (are) by {}|* (were) written by {}|~* authored by {}",
             b="* who wrote {}|* who [have/has] written {}|~* of {}",
             none_b="* who [have/has] not written any {}|* without any {}|"
             "~* who never wrote any {}",
             who="Who wrote {}|Who is the author of {}|~Which writer is responsible for {}",
             role="author|~writer", many="How many # has {} written|How many # did {} write",
             most="Which * has written the most #|~Who is the * with the most #",
             n="* who [have/has] written {} #|* with {} #"),
    relation("loan.book_id", a="* of {}", none_b="* that [have/has] never been borrowed|"
             "* which nobody has borrowed|~* that [are/is] still waiting for a first loan",
             some_b="* that [have/has] been borrowed|* with at least one loan",
             many="How many times has {} been borrowed|How often was {} borrowed|"
             "~How often did people borrow {}", most="Which * has been borrowed most often|"
             "Which * was borrowed the most times|~What is the most borrowed *",
             n="* that [have/has] been borrowed {} times|* with {} loans"),
    relation("loan.member_id", a="* (were) made by {}|* by {}",
             none_b="* who [have/has] never borrowed a book|* without any loans",
             some_b="* who [have/has] borrowed a book",
             many="How many times has {} borrowed a book|How many loans has {} made",
             most="Which * has made the most loans|Which * has borrowed books most often",
             n="* who [have/has] made {} loans|* with {} loans"),
    relation("loan.book_id+loan.member_id",
             a="* (were) borrowed by {}|* which {} borrowed|~* (were) taken out by {}",
             b="* who borrowed {}|* who [have/has] borrowed {}|~* who took out {}",
             none_b="* who [have/has] not borrowed any {}|* who never borrowed any {}",
             none_a="* (were) not borrowed by any {}|* which no {} borrowed")), (
    ("author.name", "member.name"),))

AIRLINE = World("airline", (
    table("airport", "airport|~airfield",
          column("code TEXT", "code|airport code"),
          column("name TEXT", "name"),
          column("city TEXT", "city", **PLACE),
          column("country TEXT", "country", **PLACE),
          column("runways INTEGER", "runway count|number of runways",
                 eq="* with {} runways|* that [have/has] {} runways",
                 gt="* with more than {} runways", lt="* with fewer than {} runways",
                 hi="* with the most runways", lo="* with the fewest runways",
                 ask="How many runways does {} have"),
          column("passengers REAL", "passenger number|number of passengers", total=True,
                 gt="* with more than {} million passengers|"
                 "* that [handle/handles] more than {} million passengers",
                 lt="* with fewer than {} million passengers|"
                 "* that [handle/handles] fewer than {} million passengers",
                 mid="* with between {} and {} million passengers", above="* (are) busier than {}",
                 below="* (are) quieter than {}", hi="busiest *|* with the most passengers",
                 lo="quietest *|* with the fewest passengers",
                 ask="How many passengers does {} have|~How busy is {}"),
          label="name", rows="""
          LHR,Heathrow,London,England,2,79.2; CDG,Charles de Gaulle,Paris,France,4,67.4;
          MAD,Barajas,Madrid,Spain,4,60.2; AMS,Schiphol,Amsterdam,Netherlands,6,61.9;
          JFK,Kennedy,New York,USA,4,62.5; FCO,Fiumicino,Rome,Italy,3,40.5;
          ORD,O'Hare,Chicago,USA,8,73.9; LGW,Gatwick,London,England,2,40.9;
          ORY,Orly,Paris,France,3,32.3; HND,Haneda,Tokyo,Japan,4,78.7;
          NRT,Narita,Tokyo,Japan,2,35.4; SIN,Changi,Singapore,Singapore,3,58.9;
          BER,Brandenburg,Berlin,Germany,2,23.1; BCN,El Prat,Barcelona,Spain,3,49.9;
          CPH,Kastrup,Copenhagen,Denmark,3,26.8; BOS,Logan,Boston,USA,6,40.8;
          LIN,Linate,Milan,Italy,1,9.4; ARN,Arlanda,Stockholm,Sweden,3,21.8"""),
    table("aircraft", "aircraft|plane",
          column("aircraft_id INTEGER"),
          column("model TEXT", "model|~model name"),
          column("maker TEXT", "maker|manufacturer",
                 eq="{} *|* (are) made by {}|* (are) built by {}",
                 ne="* (are) not made by {}|* (are) not built by {}", each="are made by {}",
                 ask="Who makes {}|Who built {}|~Which company makes {}"),
          column("seats INTEGER", "seat count|number of seats|~seating capacity", total=True,
                 gt="* with more than {} seats", lt="* with fewer than {} seats",
                 mid="* with {} to {} seats|* with between {} and {} seats",
                 above="* (are) larger than {}", below="* (are) smaller than {}",
                 hi="largest *|* with the most seats", lo="smallest *|* with the fewest seats",
                 ask="How many seats does {} have|~How many people fit into {}"),
          column("range_km INTEGER", "range|range in kilometres",
                 gt="* with a range of more than {} km|* that can fly more than {} km",
                 lt="* with a range of less than {} km", mid="* with a range between {} and {} km",
                 hi="* with the longest range", lo="* with the shortest range",
                 ask="How far can {} fly"),
          label="model", named="the {}", rows="""
          A320,Airbus,180,6100; 737 MAX,Boeing,178,6570; 787 Dreamliner,Boeing,248,14140;
          A350,Airbus,325,15000; E190,Embraer,98,4500; 777,Boeing,368,13650; ATR 72,ATR,70,1520;
          A220,Airbus,135,6300; CRJ900,Bombardier,90,2870; A380,Airbus,525,15200;
          747,Boeing,416,13450; E175,Embraer,76,4070"""),
    table("flight", "flight|~connection",
          column("flight_no TEXT", "flight number", "flight"),
          column("origin TEXT", fk="airport", fill="any"),
          column("destination TEXT", fk="airport", fill="any"),
          column("aircraft_id INTEGER", fk="aircraft", fill="any"),
          column("departs DATE", "departure date|date of departure", (2024, 2024), eq="* on {}",
                 gt="* (are) leaving after {}|* that [depart/departs] after {}",
                 lt="* (are) leaving before {}|* that [depart/departs] before {}",
                 mid="* (are) leaving between {} and {}", hi="latest *", lo="earliest *",
                 ask="When does {} depart|When does {} leave"),
          column("minutes INTEGER", "duration|flight time", (55, 820, 1),
                 gt="* that [take/takes] more than {} minutes|* (are) longer than {} minutes",
                 lt="* that [take/takes] less than {} minutes|* (are) shorter than {} minutes",
                 mid="* that [take/takes] between {} and {} minutes",
                 above="* (are) longer than {}", below="* (are) shorter than {}", hi="longest *",
                 lo="shortest *|~quickest *",
                 ask="How long does {} take|How many minutes does {} last"),
          column("fare REAL", "fare|ticket price", (39, 890, 0.5), total=True, **COST),
          column("delay INTEGER", "delay", (3, 180, 1), null=0.35, total=True,
                 gt="* (were) delayed by more than {} minutes|"
                 "* with a delay of more than {} minutes",
                 lt="* (were) delayed by less than {} minutes",
                 hi="most delayed *|* with the longest delay", ask="How late was {}"),
          label="flight_no", named="flight {}", count=70)), (
    relation("flight.origin", a="* (are) from {}|* that [depart/departs] from {}|"
             "* that [leave/leaves] {}|~* (are) starting at {}",
             none_b="* which no {} leaves from|* with no departing {}",
             some_b="* with departing flights",
             who="Which airport does {} depart from|Where does {} leave from",
             role="departure airport|airport of origin",
             many="How many # depart from {}|How many # leave from {}",
             most="Which * has the most departing #|From which * do the most # leave",
             n="* with {} departing #"),
    relation("flight.destination", a="* (are) to {}|* that [arrive/arrives] at {}|"
             "* (are) going to {}|~* (are) bound for {}",
             none_b="* which no {} goes to|* with no arriving {}",
             some_b="* with arriving flights",
             who="Which airport does {} arrive at|Where does {} land|~Where is {} heading",
             role="destination airport|arrival airport",
             many="How many # arrive at {}|How many # go to {}|~How many # land at {}",
             most="Which * has the most arriving #|To which * do the most # go",
             n="* with {} arriving #"),
    relation("flight.aircraft_id",
             a="* (are) flown with {}|* that [use/uses] {}|~* (are) operated with {}",
             b="* (are) used on {}|* used for {}",
             none_b="* (are) not used on any {}|* which no {} uses",
             some_b="* (are) used on at least one flight",
             who="Which aircraft is used on {}|What plane flies {}", role="aircraft|plane",
             many="How many # use {}|On how many # is {} used",
             most="Which * is used on the most #|~What is the most used *",
             n="* (are) used on {} #")))

RESTAURANT = World("restaurant", (
    table("restaurant", "restaurant|~eatery",
          column("restaurant_id INTEGER"),
          column("name TEXT", "name"),
          column("cuisine TEXT", "cuisine|type of cuisine", eq="{} *|"
                 "* that [serve/serves] {} food|* with {} cuisine|"
                 "~* that [offer/offers] {} cooking",
                 ne="* that [do/does] not serve {} food|* whose cuisine is not {}",
                 each="serve {}",
                 ask="What cuisine does {} serve|~What kind of food can I get at {}"),
          column("city TEXT", "city", **PLACE),
          column("seats INTEGER", "seat count|number of seats", total=True,
                 gt="* with more than {} seats|* that [seat/seats] more than {} people",
                 lt="* with fewer than {} seats|* that [seat/seats] fewer than {} people",
                 mid="* with {} to {} seats|* with between {} and {} seats",
                 above="* (are) larger than {}", below="* (are) smaller than {}",
                 hi="largest *|* with the most seats|~biggest *",
                 lo="smallest *|* with the fewest seats",
                 ask="How many seats does {} have|~How many guests can {} seat"),
          column("opened INTEGER", "opening year|~year of opening", year=True,
                 eq="* that opened in {}", gt="* that opened after {}",
                 lt="* that opened before {}", mid="* that opened between {} and {}",
                 above="* that opened after {}", below="* that opened before {}",
                 hi="newest *|* that opened most recently", lo="oldest *|* that opened first",
                 ask="When did {} open|In which year did {} open"),
          label="name", rows="""
          La Piazza,Italian,Rome,80,1998; Sakura,Japanese,London,45,2011;
          Taj Palace,Indian,London,120,1987; Chez Marie,French,Paris,38,1975;
          El Sol,Mexican,Madrid,64,2004; Golden Dragon,Chinese,Chicago,150,1991;
          Trattoria Verde,Italian,Chicago,55,2015; Tokyo Garden,Japanese,Berlin,60,2008;
          Spice Route,Indian,Berlin,72,2018; Le Jardin,French,London,48,2001;
          Casa Lupe,Mexican,Chicago,90,1994; Athena,Greek,Berlin,66,1983;
          The Old Mill,British,London,110,1969; Bella Napoli,Italian,Madrid,52,2020;
          Pho House,Vietnamese,Paris,34,2016"""),
    table("dish", "dish|~menu item",
          column("dish_id INTEGER"),
          column("dish_name TEXT", "name|dish name"),
          column("restaurant_id INTEGER", fk="restaurant"),
          column("course TEXT", "course",
                 eq="* (are) served as a {}|* whose course is {}|~* (are) eaten as a {}",
                 ne="* (are) not served as a {}|* whose course is not {}", each="are there for {}",
                 ask="Which course is {}|~What course is {} served as"),
          column("price REAL", "price|~cost", total=True, **COST),
          column("calories INTEGER", "calorie count|number of calories|calories", total=True,
                 gt="* with more than {} calories|* that [have/has] over {} calories",
                 lt="* with fewer than {} calories|* that [have/has] under {} calories",
                 mid="* with {} to {} calories", hi="* with the most calories|~heaviest *",
                 above="* with more calories than {}", below="* with fewer calories than {}",
                 lo="* with the fewest calories|lightest *", ask="How many calories does {} have"),
          label="dish_name", rows="""
          Margherita Pizza,La Piazza,main course,11.5,850; Lasagna,La Piazza,main course,13,920;
          Tiramisu,La Piazza,dessert,6.5,450; Bruschetta,La Piazza,starter,5.5,280;
          Salmon Nigiri,Sakura,main course,16,430; Miso Soup,Sakura,starter,4.5,90;
          Mochi,Sakura,dessert,5.2,210; Butter Chicken,Taj Palace,main course,14.5,780;
          Samosa,Taj Palace,starter,4.8,310; Mango Lassi,Taj Palace,drink,4,240;
          Onion Soup,Chez Marie,starter,7.5,320; Duck Confit,Chez Marie,main course,24,890;
          Creme Brulee,Chez Marie,dessert,8.2,-; Chicken Tacos,El Sol,main course,10.5,640;
          Guacamole,El Sol,starter,6,270; Churros,El Sol,dessert,5.8,480;
          Peking Duck,Golden Dragon,main course,28,1050; Spring Rolls,Golden Dragon,starter,5,330;
          Fried Rice,Golden Dragon,main course,9.5,690;
          Carbonara,Trattoria Verde,main course,12.8,-;
          Panna Cotta,Trattoria Verde,dessert,6.2,410;
          Beef Ramen,Tokyo Garden,main course,13.8,740; Green Tea,Tokyo Garden,drink,3,5;
          Lamb Curry,Spice Route,main course,15.2,810; Masala Chai,Spice Route,drink,3.5,120;
          Beef Bourguignon,Le Jardin,main course,22.5,870; Apple Tart,Le Jardin,dessert,7.8,395;
          Beef Burrito,Casa Lupe,main course,11.8,960; Lemonade,Casa Lupe,drink,3.8,-;
          Moussaka,Athena,main course,12.2,760; Greek Salad,Athena,starter,6.8,260;
          Baklava,Athena,dessert,5.4,430; Fish and Chips,The Old Mill,main course,14,980;
          Apple Crumble,The Old Mill,dessert,6.9,520"""),
    table("chef", "chef|cook",
          column("chef_id INTEGER"),
          column("name TEXT", "name", "person"),
          column("restaurant_id INTEGER", fk="restaurant", fill="any"),
          column("hometown TEXT", "hometown|~place of origin",
                 "Lyon|Naples|Osaka|Delhi|Lyon|Naples|Leeds", **FROM),
          column("experience INTEGER", "experience|~years of experience", (1, 34, 1),
                 gt="* with more than {} years of experience",
                 lt="* with less than {} years of experience",
                 mid="* with {} to {} years of experience",
                 above="* (are) more experienced than {}",
                 below="* (are) less experienced than {}", hi="most experienced *",
                 lo="least experienced *",
                 ask="How many years of experience does {} have|~How experienced is {}"),
          column("wage INTEGER", "wage|~pay", (2100, 5900, 50), total=True, **PAY),
          label="name", count=26),
    table("review", "review|~rating",
          column("review_id INTEGER"),
          column("restaurant_id INTEGER", fk="restaurant", fill="any"),
          column("critic TEXT", "critic|reviewer",
                 "Food Weekly|City Plate|The Fork|Daily Herald|Table Talk",
                 eq="* (were) written by {}|* by {}|* from {}", ne="* (were) not written by {}",
                 each="were written by {}|are from {}"),
          column("stars INTEGER", "stars|number of stars|~star rating", (1, 5, 1),
                 eq="* with {} stars|* that [give/gives] {} stars", gt="* with more than {} stars",
                 lt="* with fewer than {} stars"),
          column("written DATE", "date|~date of writing", (2021, 2024),
                 gt="* (were) written after {}", lt="* (were) written before {}",
                 mid="* (were) written between {} and {}", hi="latest *|most recent *",
                 lo="earliest *|oldest *"),
          count=60)), (
    relation("dish.restaurant_id",
             a="* (are) served at {}|* (are) offered by {}|~* on the menu of {}",
             b="* that [serve/serves] {}|* that [offer/offers] {}",
             none_b="* that [do/does] not serve any {}|* without any {}",
             who="Which restaurant serves {}|Where can I eat {}|~Who has {} on the menu",
             role="restaurant", many="How many # does {} serve|How many # are served at {}",
             most="Which * serves the most #|Which * offers the most #",
             n="* that [serve/serves] {} #|* with {} #"),
    relation("chef.restaurant_id",
             a="* who [work/works] at {}|* (are) employed by {}|~* who [cook/cooks] at {}",
             b="* that [employ/employs] {}|* where {} work",
             none_b="* that [do/does] not employ any {}|* without any {}",
             some_b="* that [employ/employs] at least one chef",
             who="Where does {} work|Which restaurant does {} work for|~Who employs {}",
             role="restaurant|employer", many="How many # work at {}|How many # does {} employ",
             most="Which * employs the most #|~Which * has the biggest team of #",
             n="* that [employ/employs] {} #|* with {} #"),
    relation("review.restaurant_id", a="* of {}|* about {}", b="* with {}|* that got {}",
             none_b="* without any {}|* that [have/has] not received any {}|"
             "~* that never got any {}",
             some_b="* that [have/has] been reviewed|* with at least one review",
             role="restaurant",
             many="How many # does {} have|How many times was {} reviewed|~How many # did {} get",
             most="Which * has the most #|Which * was reviewed most often", n="* with {} #")), (
    ("restaurant.name", "chef.name"),))

CLINIC = World("clinic", (
    table("doctor", "doctor|physician",
          column("doctor_id INTEGER"),
          column("name TEXT", "name|~full name", "person"),
          column("specialty TEXT", "specialty|~field",
                 "cardiology|pediatrics|dermatology|neurology|surgery|pediatrics",
                 eq="* who [work/works] in {}|* (are) specialized in {}|* whose specialty is {}|"
                 "~* who [practice/practices] {}",
                 ne="* who [do/does] not work in {}|* whose specialty is not {}",
                 each="work in {}|are specialized in {}",
                 ask="What is {} specialized in|~What kind of medicine does {} practice"),
          column("salary INTEGER", "salary|~income", (61000, 148000, 500), total=True, **PAY),
          column("hired INTEGER", "hiring year|year of hiring", (1996, 2022, 1), year=True,
                 eq="* (were) hired in {}|* who started in {}",
                 gt="* (were) hired after {}|* who started after {}",
                 lt="* (were) hired before {}|* who started before {}",
                 mid="* (were) hired between {} and {}", above="* (were) hired after {}",
                 below="* (were) hired before {}", hi="newest *|* hired most recently",
                 lo="* hired first|~longest-serving *", ask="When was {} hired|When did {} start"),
          column("supervisor_id INTEGER", fk="doctor", fill="any", null=0.2),
          label="name", count=18),
    table("patient", "patient",
          column("patient_id INTEGER"),
          column("patient_name TEXT", "name|patient name", "person"),
          column("town TEXT", "town|home town", "Oxford|Bristol|Leeds|York|Oxford|Bath", **HOME),
          column("age INTEGER", "age", (18, 88, 1), **AGE),
          column("weight REAL", "weight|~body weight", (48, 104, 0.5),
                 gt="* who [weigh/weighs] more than {} kg|* (are) heavier than {} kg",
                 lt="* who [weigh/weighs] less than {} kg|* (are) lighter than {} kg",
                 mid="* who [weigh/weighs] between {} and {} kg", above="* (are) heavier than {}",
                 below="* (are) lighter than {}", hi="heaviest *", lo="lightest *",
                 ask="How much does {} weigh|~How heavy is {}"),
          column("insurance TEXT", "insurance|insurance company",
                 "Medicare|Sunlife|Helvia|Sunlife", null=0.15,
                 eq="* (are) insured with {}|* with {} insurance|~* (are) covered by {}",
                 ne="* (are) not insured with {}|* whose insurance is not {}",
                 ask="Who insures {}|Which insurance does {} have"),
          label="patient_name", count=34),
    table("visit", "visit|~consultation",
          column("visit_id INTEGER"),
          column("doctor_id INTEGER", fk="doctor", fill="any"),
          column("patient_id INTEGER", fk="patient", fill="any"),
          column("day DATE", "date|day", (2023, 2024), eq="* on {}",
                 gt="* (were) made after {}|* after {}", lt="* (were) made before {}|* before {}",
                 mid="* (were) made between {} and {}", hi="latest *|most recent *",
                 lo="earliest *|~first *"),
          column("reason TEXT", "reason|~cause",
                 "checkup|back pain|flu|fever|vaccination|headache|checkup",
                 eq="* for {}|* with {} as the reason|* whose reason was {}",
                 ne="* for anything but {}|* whose reason was not {}", each="were for {}"),
          column("cost REAL", "cost|~bill", (25, 380, 2.5), total=True,
                 gt="* that cost more than {}|* with a cost of more than {}",
                 lt="* that cost less than {}", mid="* that cost between {} and {}",
                 hi="most expensive *|* with the highest cost",
                 lo="cheapest *|* with the lowest cost"),
          count=110)), (
    relation("doctor.supervisor_id", a="* (are) supervised by {}|* who [report/reports] to {}|"
             "~* who [have/has] {} as a boss", b="* who [supervise/supervises] {}",
             some_b="* who [supervise/supervises] someone",
             who="Who supervises {}|Who is the supervisor of {}|~Who is the boss of {}",
             role="supervisor|~boss", many="How many # does {} supervise|How many # report to {}",
             most="Which * supervises the most #|~Who is the boss of the most #",
             n="* who [supervise/supervises] {} #"),
    relation("visit.doctor_id", a="* to {}", b="",
             none_b="* without any {}|* who [have/has] not had any {}",
             some_b="* who [have/has] had at least one visit|* with at least one visit",
             many="How many # has {} had|How many # were there to {}",
             most="Which * has had the most #|~Who is the busiest * by number of #",
             n="* with {} #|* who [have/has] had {} #", role="doctor"),
    relation("visit.patient_id", a="* by {}|* (were) made by {}",
             none_b="* who [have/has] not made any {}|* without any {}|"
             "~* who never came for any {}", some_b="* who [have/has] made at least one visit",
             many="How many # has {} made|~How often has {} come in for a visit",
             most="Which * has made the most #", n="* who [have/has] made {} #|* with {} #",
             role="patient"),
    relation("visit.doctor_id+visit.patient_id",
             a="* who treated {}|* who [have/has] treated {}|~* who saw {}",
             b="* (were) treated by {}|* who visited {}|~* who went to see {}",
             none_a="* who [have/has] not treated any {}|* who never treated any {}",
             none_b="* (were) not treated by any {}|* who never visited any {}")), (
    ("doctor.name", "patient.patient_name"),))

SCHOOL = World("school", (
    table("teacher", "teacher|~instructor",
          column("teacher_id INTEGER"),
          column("full_name TEXT", "full name|name"),
          column("department TEXT", "department|~faculty",
                 eq="* in the {} department|* who [belong/belongs] to the {} department|~{} *",
                 ne="* (are) not in the {} department|* outside the {} department",
                 each="work in {}|belong to {}",
                 ask="Which department does {} work in|What department is {} in"),
          column("age INTEGER", "age", (25, 66, 1), **AGE),
          column("weekly_hours INTEGER", "weekly hours|~hours per week", (8, 32, 1), total=True,
                 gt="* who [work/works] more than {} hours a week",
                 lt="* who [work/works] fewer than {} hours a week",
                 mid="* who [work/works] {} to {} hours a week",
                 above="* who [work/works] more hours than {}",
                 below="* who [work/works] fewer hours than {}", hi="* with the most weekly hours",
                 lo="* with the fewest weekly hours", ask="How many hours a week does {} work"),
          label="full_name", rows="""
          Susan Blake,Mathematics; Robert Chen,Science; Monica Ferrari,Languages;
          William Grant,History; Claire Fontaine,Languages; Ahmed Nasser,Science;
          Olga Sokolova,Arts; Patrick Doyle,Mathematics; Teresa Molina,Languages;
          Frank Becker,Science; Judith Stone,Arts; Simon Wright,History; Naomi Sato,Mathematics;
          Gloria Banks,Arts; Eric Lund,Science"""),
    table("course", "course|class",
          column("course_id INTEGER"),
          column("title TEXT", "title|~name"),
          column("teacher_id INTEGER", fk="teacher"),
          column("credits INTEGER", "credits|number of credits|~credit points", (2, 8, 1),
                 total=True, eq="* worth {} credits|* with {} credits",
                 gt="* with more than {} credits|* worth more than {} credits",
                 lt="* with fewer than {} credits|* worth fewer than {} credits",
                 mid="* with {} to {} credits", above="* worth more credits than {}",
                 below="* worth fewer credits than {}", hi="* with the most credits",
                 lo="* with the fewest credits",
                 ask="How many credits is {} worth|How many credits do I get for {}"),
          column("weekday TEXT", "weekday|day of the week",
                 "Monday|Tuesday|Wednesday|Thursday|Friday|Monday",
                 eq="* on {}|* (are) held on {}|~* that [meet/meets] on {}",
                 ne="* (are) not held on {}|* whose weekday is not {}", each="are held on {}",
                 ask="On which day is {} held|~When is {} taught"),
          column("room TEXT", "room", "A1|A2|B1|B2|C3|Lab", null=0.12,
                 eq="* (are) held in room {}|* in room {}|~* (are) taught in room {}",
                 ne="* (are) not held in room {}", ask="Which room is {} in|Where is {} held"),
          label="title", rows="""
          Algebra,Susan Blake; Geometry,Susan Blake; Calculus,Patrick Doyle;
          Statistics,Patrick Doyle; Biology,Robert Chen; Botany,Robert Chen;
          Chemistry,Ahmed Nasser; Physics,Frank Becker; Astronomy,Frank Becker;
          World History,William Grant; Modern History,William Grant; Art History,Simon Wright;
          Creative Writing,Monica Ferrari; English Literature,Monica Ferrari;
          Italian,Monica Ferrari; Spanish,Teresa Molina; Portuguese,Teresa Molina;
          French,Claire Fontaine; French Literature,Claire Fontaine; Music Theory,Olga Sokolova;
          Music History,Olga Sokolova; Modern Dance,Judith Stone; Computer Science,Susan Blake"""),
    table("student", "student|pupil",
          column("student_id INTEGER"),
          column("name TEXT", "name", "person"),
          column("home_town TEXT", "home town|~town of residence",
                 "Salem|Dover|Concord|Milton|Salem", **HOME),
          column("grade INTEGER", "grade|~grade level", (9, 12, 1),
                 eq="* in grade {}|* who [attend/attends] grade {}", ne="* (are) not in grade {}",
                 gt="* (are) above grade {}|* in a grade above {}",
                 lt="* (are) below grade {}|* in a grade below {}", each="are in {}",
                 ask="Which grade is {} in|What grade does {} attend"),
          column("gpa REAL", "GPA|~grade point average", (1.75, 4, 0.25),
                 gt="* with a GPA above {}|* whose GPA is over {}",
                 lt="* with a GPA below {}|* whose GPA is under {}",
                 mid="* with a GPA between {} and {}", above="* with a higher GPA than {}",
                 below="* with a lower GPA than {}", hi="* with the best GPA|~best *",
                 lo="* with the worst GPA|~weakest *", ask="What is the GPA of {}"),
          label="name", count=36),
    table("enrollment", "enrollment|~registration",
          column("student_id INTEGER", fk="student", fill="any"),
          column("course_id INTEGER", fk="course", fill="any"),
          column("mark INTEGER", "mark|~score", (41, 100, 1), null=0.1,
                 gt="* with a mark above {}|* with a mark over {}",
                 lt="* with a mark below {}|* with a mark under {}",
                 mid="* with a mark between {} and {}", hi="* with the best mark"),
          count=120)), (
    relation("course.teacher_id",
             a="* (are) taught by {}|* (are) given by {}|~* from the timetable of {}",
             b="* who [teach/teaches] {}|* who [give/gives] {}",
             none_b="* who [do/does] not teach any {}|* without any {}",
             some_b="* who [teach/teaches] at least one course",
             who="Who teaches {}|Who is the teacher of {}|~Who gives {}",
             role="teacher|~instructor", many="How many # does {} teach|~How many # does {} give",
             most="Which * teaches the most #", n="* who [teach/teaches] {} #|* with {} #"),
    relation("enrollment.student_id", a="* of {}",
             none_b="* who [are/is] not enrolled in any course|* without any {}",
             some_b="* (are) enrolled in at least one course|* who [take/takes] a course",
             many="How many courses does {} take|In how many courses is {} enrolled",
             most="Which * takes the most courses|~Which * signed up for the most courses",
             n="* who [take/takes] {} courses|* (are) enrolled in {} courses", role="student"),
    relation("enrollment.course_id", a="* in {}",
             none_b="* which nobody takes|* without any {}|* without any students",
             some_b="* with at least one student",
             many="How many students take {}|How many students are enrolled in {}",
             most="Which * has the most students|Which * do the most students take|"
             "~What is the most popular *", n="* with {} students", role="course"),
    relation("enrollment.student_id+enrollment.course_id",
             a="* who [take/takes] {}|* (are) enrolled in {}|~* who signed up for {}",
             b="* (are) taken by {}|* attended by {}|~* which {} signed up for",
             none_a="* who [do/does] not take any {}|* (are) not enrolled in any {}",
             none_b="* (are) not taken by any {}")), (
    ("teacher.full_name", "student.name"),))

FOOTBALL = World("football", (
    table("club", "club|team",
          column("club_id INTEGER"),
          column("club_name TEXT", "club name|name"),
          column("city TEXT", "city|~home city",
                 eq="* (are) from {}|* (are) based in {}|~* (are) at home in {}",
                 ne="* (are) not from {}|* (are) not based in {}",
                 each="are based in {}|are from {}", ask="Where is {} based|Which city is {} from"),
          column("stadium TEXT", "stadium|home ground", eq="* that [play/plays] at {}",
                 ask="Where does {} play|In which stadium does {} play"),
          column("capacity INTEGER", "capacity|stadium capacity",
                 gt="* whose stadium holds more than {} fans|* with a capacity of more than {}",
                 lt="* whose stadium holds fewer than {} fans|* with a capacity of less than {}",
                 mid="* with a capacity between {} and {}",
                 above="* with a larger capacity than {}",
                 below="* with a smaller capacity than {}",
                 hi="* with the largest stadium|* with the largest capacity",
                 lo="* with the smallest stadium|* with the smallest capacity",
                 ask="How many fans fit into the stadium of {}|"
                 "What is the capacity of the stadium of {}"),
          column("founded INTEGER", "founding year|year of foundation", year=True,
                 eq="* (were) founded in {}",
                 gt="* (were) founded after {}|~* that [exist/exists] since after {}",
                 lt="* (were) founded before {}", mid="* (were) founded between {} and {}",
                 above="* (were) founded after {}", below="* (were) founded before {}",
                 hi="youngest *|newest *", lo="oldest *",
                 ask="When was {} founded|~In which year was {} founded"),
          label="club_name", rows="""
          Arsenal,London,Emirates Stadium,60704,1886;
          Real Madrid,Madrid,Santiago Bernabeu,81044,1902; Liverpool,Liverpool,Anfield,61276,1892;
          Barcelona,Barcelona,Camp Nou,99354,1899; Juventus,Turin,Allianz Stadium,41507,1897;
          Bayern Munich,Munich,Allianz Arena,75024,1900; Chelsea,London,Stamford Bridge,40343,1905;
          AC Milan,Milan,San Siro,75817,1899; Inter,Milan,San Siro,75817,1908;
          Ajax,Amsterdam,Johan Cruyff Arena,55500,1900; Everton,Liverpool,Goodison Park,39414,1878;
          Porto,Porto,Estadio do Dragao,50033,1893; Celtic,Glasgow,Celtic Park,60411,1887;
          Atletico Madrid,Madrid,Metropolitano,70460,1903"""),
    table("player", "player|footballer",
          column("player_id INTEGER"),
          column("player_name TEXT", "name|player name", "person"),
          column("club_id INTEGER", fk="club", fill="any"),
          column("position TEXT", "position|~role",
                 "goalkeeper|defender|midfielder|striker|defender|midfielder",
                 eq="* who [play/plays] as a {}|* in the {} position|* whose position is {}|"
                 "~* (are) used as a {}",
                 ne="* who [do/does] not play as {}|* whose position is not {}",
                 each="play as {}|play in {}",
                 ask="Which position does {} play in|~Where on the pitch does {} play"),
          column("nationality TEXT", "nationality",
                 "Spanish|English|Brazilian|French|German|Dutch|Brazilian",
                 eq="{} *|* with {} nationality|* whose nationality is {}",
                 ne="* (are) not {}|* whose nationality is not {}", each="have {}",
                 ask="What nationality is {}|~Which nationality does {} have"),
          column("age INTEGER", "age", (17, 38, 1), **AGE),
          column("goals INTEGER", "goals|number of goals", (0, 31, 1), total=True,
                 eq="* with {} goals", gt="* with more than {} goals|"
                 "* who scored more than {} goals|~* with over {} goals",
                 lt="* with fewer than {} goals|* who scored fewer than {} goals",
                 mid="* with {} to {} goals|* who scored between {} and {} goals",
                 above="* who scored more goals than {}", below="* who scored fewer goals than {}",
                 hi="* with the most goals|top scoring *", lo="* with the fewest goals",
                 ask="How many goals did {} score|How many goals has {} scored"),
          column("value REAL", "market value|value", (0.75, 95, 0.5), null=0.08, total=True,
                 gt="* worth more than {} million", lt="* worth less than {} million",
                 mid="* worth between {} and {} million", above="* worth more than {}",
                 below="* worth less than {}", hi="most valuable *", lo="least valuable *",
                 ask="How much is {} worth"),
          label="player_name", count=40),
    table("game", "game|match",
          column("game_id INTEGER"),
          column("home_id INTEGER", fk="club", fill="any"),
          column("away_id INTEGER", fk="club", fill="any"),
          column("played DATE", "date|match day", (2023, 2024), eq="* on {}|* (were) played on {}",
                 gt="* (were) played after {}", lt="* (were) played before {}",
                 mid="* (were) played between {} and {}", hi="most recent *|latest *",
                 lo="earliest *|~first *"),
          column("home_goals INTEGER", "home goals|number of home goals", (0, 5, 1), total=True,
                 eq="* with {} home goals", gt="* with more than {} home goals",
                 lt="* with fewer than {} home goals"),
          column("away_goals INTEGER", "away goals|number of away goals", (0, 4, 1), total=True,
                 eq="* with {} away goals", gt="* with more than {} away goals",
                 lt="* with fewer than {} away goals"),
          column("attendance INTEGER", "attendance|number of spectators", (14000, 91000, 100),
                 total=True, gt="* with an attendance above {}|* with more than {} spectators|"
                 "~* seen by more than {} people",
                 lt="* with an attendance below {}|* with fewer than {} spectators",
                 mid="* with between {} and {} spectators",
                 hi="best attended *|* with the highest attendance",
                 lo="worst attended *|* with the lowest attendance"),
          count=64)), (
    relation("player.club_id", a="* who [play/plays] for {}|* (are) under contract with {}|"
             "* of {}|~* on the books of {}", b="* with {}|* that [have/has] {}",
             none_b="* without any {}|* that [have/has] no {}",
             some_b="* with at least one player",
             who="Which club does {} play for|Who does {} play for|~Which team is {} with",
             role="club|team", many="How many # does {} have|How many # play for {}",
             most="Which * has the most #", n="* with {} #|* that [have/has] {} #"),
    relation("game.home_id",
             a="* (were) hosted by {}|* (were) played at home by {}|~* at the ground of {}",
             b="* that hosted {}",
             none_b="* that [have/has] not hosted any {}|* without any home {}",
             some_b="* that [have/has] hosted a game",
             many="How many # did {} host|How many home # did {} play",
             most="Which * hosted the most #|Which * played the most home #",
             n="* that hosted {} #|* with {} home #", role="home club|home team"),
    relation("game.away_id", a="* (were) played away by {}|* where {} [were/was] the away team",
             none_b="* without any away {}|* that [have/has] not played any away {}",
             some_b="* that [have/has] played an away game", many="How many away # did {} play",
             most="Which * played the most away #", n="* with {} away #|* that played {} away #",
             role="away club|visiting team")), (
    ("club.club_name", "player.player_name"),))

CINEMA = World("cinema", (
    table("director", "director|film maker",
          column("director_id INTEGER"),
          column("name TEXT", "name|~full name"),
          column("country TEXT", "country|~country of origin", **FROM),
          column("birth_year INTEGER", "birth year|year of birth", year=True, **BORN),
          label="name", rows="""
          Steven Spielberg,USA,1946; Christopher Nolan,England,1970; Martin Scorsese,USA,1942;
          Quentin Tarantino,USA,1963; Ridley Scott,England,1937; Peter Jackson,New Zealand,1961;
          James Cameron,Canada,1954; Alfred Hitchcock,England,1899; Greta Gerwig,USA,1983;
          Ang Lee,Taiwan,1954; Pedro Almodovar,Spain,1949; Hayao Miyazaki,Japan,1941;
          Jane Campion,New Zealand,1955; Akira Kurosawa,Japan,1910; Agnes Varda,France,1928"""),
    table("movie", "movie|film",
          column("movie_id INTEGER"),
          column("title TEXT", "title|~name"),
          column("director_id INTEGER", fk="director"),
          column("genre TEXT", "genre",
                 eq="{} *|* in the {} genre|* whose genre is {}|~* of the {} kind",
                 ne="* (are) not in the {} genre|* whose genre is not {}",
                 each="belong to {}|are there in {}",
                 ask="What genre is {}|~What kind of movie is {}"),
          column("release_year INTEGER", "release year|year of release", year=True,
                 eq="* (were) released in {}|* from {}",
                 gt="* (were) released after {}|* that came out after {}",
                 lt="* (were) released before {}|* that came out before {}|~* (are) older than {}",
                 mid="* (were) released between {} and {}", above="* (were) released after {}",
                 below="* (were) released before {}", hi="newest *|most recent *",
                 lo="oldest *|earliest *",
                 ask="When was {} released|When did {} come out|~What year is {} from"),
          column("minutes INTEGER", "running time|length in minutes", total=True,
                 gt="* (are) longer than {} minutes|* that [last/lasts] more than {} minutes|"
                 "~* (are) over {} minutes long",
                 lt="* (are) shorter than {} minutes|* that [last/lasts] less than {} minutes",
                 mid="* (are) between {} and {} minutes long", above="* (are) longer than {}",
                 below="* (are) shorter than {}", hi="longest *", lo="shortest *",
                 ask="How long is {}|How many minutes does {} last"),
          column("gross REAL", "box office gross|gross|~box office takings", total=True,
                 gt="* that earned more than {} million|* with a gross of over {} million|"
                 "~* that made more than {} million",
                 lt="* that earned less than {} million|* with a gross of under {} million",
                 mid="* that earned between {} and {} million", above="* that earned more than {}",
                 below="* that earned less than {}",
                 hi="highest grossing *|* that earned the most",
                 lo="lowest grossing *|* that earned the least",
                 ask="How much did {} earn|~How much money did {} make"),
          label="title", rows="""
          Jaws,Steven Spielberg,thriller,1975,124,476.5;
          Jurassic Park,Steven Spielberg,adventure,1993,127,1058;
          Saving Private Ryan,Steven Spielberg,war,1998,169,482;
          Lincoln,Steven Spielberg,drama,2012,150,275;
          Catch Me If You Can,Steven Spielberg,crime,2002,141,352;
          Inception,Christopher Nolan,science fiction,2010,148,839;
          Interstellar,Christopher Nolan,science fiction,2014,168,731;
          Dunkirk,Christopher Nolan,war,2017,106,530;
          Oppenheimer,Christopher Nolan,drama,2023,180,975;
          Taxi Driver,Martin Scorsese,crime,1976,114,28.6;
          Goodfellas,Martin Scorsese,crime,1990,145,47;
          The Departed,Martin Scorsese,crime,2006,151,291.5;
          Hugo,Martin Scorsese,adventure,2011,126,186;
          Pulp Fiction,Quentin Tarantino,crime,1994,154,213.9;
          Kill Bill,Quentin Tarantino,thriller,2003,111,181;
          Alien,Ridley Scott,science fiction,1979,117,185;
          Gladiator,Ridley Scott,drama,2000,155,465.4;
          The Martian,Ridley Scott,science fiction,2015,142,630;
          The Fellowship of the Ring,Peter Jackson,fantasy,2001,178,888;
          King Kong,Peter Jackson,adventure,2005,187,557;
          Titanic,James Cameron,romance,1997,195,2264;
          Avatar,James Cameron,science fiction,2009,162,2923;
          Psycho,Alfred Hitchcock,thriller,1960,109,50;
          Vertigo,Alfred Hitchcock,thriller,1958,128,7.3;
          Little Women,Greta Gerwig,romance,2019,135,220; Barbie,Greta Gerwig,comedy,2023,115,1446;
          Sense and Sensibility,Ang Lee,romance,1995,136,134.6;
          Volver,Pedro Almodovar,comedy,2006,121,87;
          Spirited Away,Hayao Miyazaki,fantasy,2003,125,358;
          The Piano,Jane Campion,drama,1996,120,140"""),
    table("actor", "actor|~performer",
          column("actor_id INTEGER"),
          column("name TEXT", "name|~full name"),
          column("country TEXT", "country|~home country", **FROM),
          column("born INTEGER", "birth year|year of birth", year=True, **BORN),
          label="name", rows="""
          Leonardo DiCaprio,USA,1974; Tom Hanks,USA,1956; Kate Winslet,England,1975;
          Matt Damon,USA,1970; Cillian Murphy,Ireland,1976; Robert De Niro,USA,1943;
          Uma Thurman,USA,1971; Sigourney Weaver,USA,1949; Russell Crowe,New Zealand,1964;
          Saoirse Ronan,Ireland,1994; Penelope Cruz,Spain,1977; Tom Hardy,England,1978;
          Jessica Chastain,USA,1979; Margot Robbie,Australia,1990; Ian McKellen,England,1939;
          Cate Blanchett,Australia,1969; Daniel Day-Lewis,England,1957;
          Antonio Banderas,Spain,1960; Meryl Streep,USA,1952; Naomi Watts,England,1968"""),
    table("casting", "role",
          column("movie_id INTEGER", fk="movie"),
          column("actor_id INTEGER", fk="actor"),
          column("part TEXT", "part|~character name"),
          column("pay REAL", "pay|~salary", (0.25, 25, 0.25), null=0.12, total=True,
                 gt="* with a pay above {} million|* that paid more than {} million",
                 lt="* with a pay below {} million|* that paid less than {} million",
                 mid="* that paid between {} and {} million", hi="best paid *"),
          rows="""
          Titanic,Leonardo DiCaprio,Jack; Titanic,Kate Winslet,Rose;
          Inception,Leonardo DiCaprio,Cobb; Inception,Cillian Murphy,Fischer;
          Inception,Tom Hardy,Eames; The Departed,Leonardo DiCaprio,Billy;
          The Departed,Matt Damon,Colin; Catch Me If You Can,Leonardo DiCaprio,Frank;
          Catch Me If You Can,Tom Hanks,Carl; Saving Private Ryan,Tom Hanks,Miller;
          Saving Private Ryan,Matt Damon,Ryan; The Martian,Matt Damon,Watney;
          The Martian,Jessica Chastain,Lewis; Interstellar,Jessica Chastain,Murph;
          Interstellar,Matt Damon,Mann; Oppenheimer,Cillian Murphy,Robert;
          Oppenheimer,Matt Damon,Groves; Dunkirk,Cillian Murphy,Soldier; Dunkirk,Tom Hardy,Farrier;
          Taxi Driver,Robert De Niro,Travis; Goodfellas,Robert De Niro,Jimmy;
          Pulp Fiction,Uma Thurman,Mia; Kill Bill,Uma Thurman,The Bride;
          Alien,Sigourney Weaver,Ripley; Avatar,Sigourney Weaver,Grace; Avatar,Kate Winslet,Ronal;
          Gladiator,Russell Crowe,Maximus; Little Women,Saoirse Ronan,Jo;
          Little Women,Meryl Streep,March; Barbie,Margot Robbie,Barbie;
          Volver,Penelope Cruz,Raimunda; King Kong,Naomi Watts,Ann;
          Lincoln,Daniel Day-Lewis,Lincoln; The Fellowship of the Ring,Ian McKellen,Gandalf;
          The Fellowship of the Ring,Cate Blanchett,Galadriel;
          Sense and Sensibility,Kate Winslet,Marianne""")), (
    relation("movie.director_id", a="* (are) by {}|* (were) directed by {}|~* (were) made by {}",
             b="* who directed {}|* who [have/has] directed {}|~* behind {}",
             none_b="* who [have/has] not directed any {}|* without any {}",
             some_b="* who [have/has] directed a movie",
             who="Who directed {}|Who is the director of {}|~Who made {}",
             role="director|~film maker",
             many="How many # has {} directed|How many # did {} direct",
             most="Which * has directed the most #|~Who is the * with the most #",
             n="* who [have/has] directed {} #|* with {} #"),
    relation("casting.movie_id", a="* in {}",
             many="How many actors play in {}|How many roles are there in {}",
             most="Which * has the most roles|~Which * has the largest cast", n="* with {} roles",
             none_b="* without any roles|* with no actors listed",
             some_b="* with at least one role", role="movie"),
    relation("casting.actor_id", a="* (were) played by {}|* of {}",
             none_b="* without any roles|* who [have/has] not played in any movie",
             some_b="* who [have/has] at least one role", many="How many movies has {} played in|"
             "How many roles has {} had|~How many movies did {} appear in",
             most="Which * has played in the most movies|Which * has had the most roles",
             n="* who [have/has] played in {} movies|* with {} roles", role="actor"),
    relation("casting.movie_id+casting.actor_id",
             a="* with {}|* starring {}|* which {} played in|~* featuring {}",
             b="* who [play/plays] in {}|* who played in {}|~* who [appear/appears] in {}",
             none_a="* without any {}",
             none_b="* who [have/has] not played in any {}|* who never played in any {}")), (
    ("director.country", "actor.country"),
    ("director.name", "actor.name")))

SHOP = World("shop", (
    table("supplier", "supplier|vendor",
          column("supplier_id INTEGER"),
          column("company TEXT", "company name|company"),
          column("city TEXT", "city",
                 eq="* (are) based in {}|* (are) located in {}|~* with an office in {}",
                 ne="* (are) not based in {}|* (are) located outside {}", each="are based in {}",
                 ask="Where is {} based|Which city is {} located in"),
          column("rating REAL", "rating|~score", (2, 5, 0.25),
                 gt="* (are) rated above {}|* with a rating over {}",
                 lt="* (are) rated below {}|* with a rating under {}",
                 mid="* with a rating between {} and {}", above="* (are) rated higher than {}",
                 below="* (are) rated lower than {}", hi="best rated *|* with the best rating",
                 lo="worst rated *", ask="How is {} rated"),
          label="company", rows="""
          Nordic Home,Oslo; Bright Tools,Hamburg; Casa Nova,Lisbon; Alpine Sports,Vienna;
          Paper Moon,Hamburg; Fresh Fields,Dublin; Urban Tech,Lisbon; Little Bear,Vienna;
          Blue Harbor,Dublin"""),
    table("product", "product|item",
          column("product_id INTEGER"),
          column("label TEXT", "label|product name"),
          column("supplier_id INTEGER", fk="supplier"),
          column("category TEXT", "category|~type", eq="* in the {} category|"
                 "* (are) from the {} category|* whose category is {}|~* (are) filed under {}",
                 ne="* (are) not in the {} category|* outside the {} category",
                 each="are in {}|belong to {}",
                 ask="Which category is {} in|~What category does {} belong to"),
          column("price REAL", "price|~cost", total=True, **COST),
          column("stock INTEGER", "stock|~number in stock", (0, 240, 1), total=True,
                 gt="* with a stock of more than {}|* with more than {} pieces in stock",
                 lt="* with a stock of less than {}|* with fewer than {} pieces in stock",
                 mid="* with {} to {} pieces in stock", hi="* with the largest stock",
                 lo="* with the smallest stock", above="* with a larger stock than {}",
                 below="* with a smaller stock than {}", ask="How many pieces of {} are in stock"),
          label="label", named="the {}", rows="""
          Desk Lamp,Nordic Home,home,34.5; Wool Blanket,Nordic Home,home,59;
          Coffee Table,Nordic Home,home,129; Bread Knife,Casa Nova,home,22;
          Cordless Drill,Bright Tools,tools,89.9; Hammer,Bright Tools,tools,18.5;
          Toolbox,Bright Tools,tools,42; Tennis Racket,Alpine Sports,sports,75;
          Yoga Mat,Alpine Sports,sports,24.9; Skateboard,Urban Tech,sports,99.5;
          Climbing Rope,Alpine Sports,sports,64; Bike Helmet,Alpine Sports,sports,54.5;
          Notebook,Paper Moon,office,4.5; Fountain Pen,Paper Moon,office,27;
          Desk Calendar,Paper Moon,office,12.5; Olive Oil,Casa Nova,food,11.9;
          Dark Chocolate,Fresh Fields,food,3.2; Green Tea,Fresh Fields,food,6.8;
          Headset,Urban Tech,electronics,149; Tablet,Urban Tech,electronics,329;
          Phone Charger,Urban Tech,electronics,19.9; Smart Watch,Urban Tech,electronics,219;
          Teddy Bear,Little Bear,toys,21.5; Wooden Train,Little Bear,toys,38;
          Chess Set,Casa Nova,toys,32;
          Kite,Little Bear,toys,15.9; Wall Clock,Nordic Home,home,46"""),
    table("customer", "customer|~buyer",
          column("customer_id INTEGER"),
          column("name TEXT", "name|~full name", "person"),
          column("town TEXT", "town|~place of residence",
                 "Hamburg|Lisbon|Geneva|Dublin|Prague|Geneva", **HOME),
          column("joined INTEGER", "joining year|~year of joining", (2015, 2024, 1), year=True,
                 eq="* who joined in {}", gt="* who joined after {}", lt="* who joined before {}",
                 mid="* who joined between {} and {}", above="* who joined after {}",
                 below="* who joined before {}", ask="When did {} join|In which year did {} join"),
          column("points INTEGER", "bonus points|points", (0, 2900, 10), total=True,
                 gt="* with more than {} points|* who collected more than {} points",
                 lt="* with fewer than {} points|* who collected fewer than {} points",
                 mid="* with {} to {} points", above="* with more points than {}",
                 below="* with fewer points than {}", hi="* with the most points",
                 lo="* with the fewest points",
                 ask="How many points does {} have|~How many points did {} collect"),
          label="name", count=32),
    table("purchase", "purchase|order",
          column("purchase_id INTEGER"),
          column("customer_id INTEGER", fk="customer", fill="any"),
          column("product_id INTEGER", fk="product", fill="any"),
          column("quantity INTEGER", "quantity|~amount", (1, 9, 1), total=True,
                 eq="* with a quantity of {}|* of exactly {} pieces",
                 gt="* of more than {} pieces|* with a quantity above {}",
                 lt="* of fewer than {} pieces|* with a quantity below {}"),
          column("bought DATE", "purchase date|~date of purchase", (2022, 2024),
                 gt="* (were) made after {}|* after {}", lt="* (were) made before {}|* before {}",
                 mid="* (were) made between {} and {}", hi="most recent *|latest *",
                 lo="earliest *|~first *"),
          column("discount INTEGER", "discount", (5, 40, 5), null=0.5,
                 gt="* with a discount of more than {} percent",
                 lt="* with a discount of less than {} percent"),
          count=120)), (
    relation("product.supplier_id",
             a="* (are) supplied by {}|* (are) delivered by {}|~* that [come/comes] from {}",
             b="* who [supply/supplies] {}|* who [deliver/delivers] {}",
             none_b="* who [do/does] not supply any {}|* without any {}",
             some_b="* who [supply/supplies] at least one product",
             who="Who supplies {}|Which supplier delivers {}|~Who do we get {} from",
             role="supplier|~vendor", many="How many # does {} supply|How many # does {} deliver",
             most="Which * supplies the most #", n="* who [supply/supplies] {} #|* with {} #"),
    relation("purchase.product_id", a="* of {}", none_b="* that [have/has] never been bought|"
             "* which nobody has bought|~* that [are/is] yet to sell",
             some_b="* that [have/has] been bought|* with at least one purchase",
             many="How many times was {} bought|How often has {} been bought|"
             "~How often did people buy {}",
             most="Which * was bought most often|Which * has the most #",
             n="* that [were/was] bought {} times|* with {} #", role="product"),
    relation("purchase.customer_id", a="* (were) made by {}|* by {}",
             none_b="* who [have/has] never bought anything|* without any {}",
             some_b="* who [have/has] bought something|* with at least one purchase",
             many="How many # has {} made|How many # did {} make",
             most="Which * has made the most #|~Who is the * with the most #",
             n="* who [have/has] made {} #|* with {} #", role="customer"),
    relation("purchase.product_id+purchase.customer_id",
             a="* (were) bought by {}|* which {} bought|~* (were) ordered by {}",
             b="* who bought {}|* who [have/has] bought {}|~* who ordered {}",
             none_b="* who [have/has] not bought any {}|* who never bought any {}",
             none_a="* (were) not bought by any {}|* which no {} bought")), (
    ("supplier.city", "customer.town"),
    ("supplier.company", "customer.name")))

WORLDS = (LIBRARY, AIRLINE, RESTAURANT, CLINIC, SCHOOL, FOOTBALL, CINEMA, SHOP)
