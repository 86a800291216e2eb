"""Foreign keys that a person's database has and does not declare.

    with_inferred_keys(schema, db_path)    the Schema with them; a line for each in Schema.inferred

Names propose, values decide. A column is proposed as a key where its name ends in a name that
others give a unique column of another table: customer_id, BillingCustomerID or customer for
tblCustomers.id. Among the values that it holds, nearly all must stand in that column. Values alone
propose nothing: every small number is the id of something. Only tables without a declared key are
looked at, and keys of one column.
"""

from contextlib import closing
from dataclasses import replace

from data.synthesis.profiles import Profiles
from data.synthesis.quality import words

INCLUDED = 0.98              # share of a child's values that the parent must hold
ENDINGS = ("id", "code", "num", "no", "key", "nr")       # customerid, without a capital
BARE = frozenset((*ENDINGS, "name", "number", "title", "uuid", "guid", "pk", "fk", "description",
                  "rowid", "value", "type", "date", "year", "rank", "index"))   # name no table
PREFIXES = frozenset("tbl tb t dim fact vw ref".split())
ABOVE = ("parent", "manager", "supervisor", "boss", "superior", "reports to")  # in one table
WHOLE, COLUMN, PART, SELF = 4, 3, 2, 1                       # how surely a name means a column


def with_inferred_keys(schema, db_path):
    """The Schema with the foreign keys that names and values show, and their evidence."""
    declared = {key[0] for key in schema.foreign_keys}
    children = [table for table in schema.tables if not table.view and table.name not in declared]
    called, found = _called(schema), []
    with closing(Profiles(db_path)) as profiles:
        unique = {place for table in schema.tables for place in _declared_unique(table, profiles)}
        for table in children:
            for column in table.columns:
                key = _parent(table, column, called, unique, profiles)
                found += [((table.name, column.name, *key[0]), key[1])] if key else []
    lines = [f"inferred key: {key[0]}.{key[1]} -> {key[2]}.{key[3]} ({why})" for key, why in found]
    return replace(schema, foreign_keys=schema.foreign_keys + tuple([key for key, _ in found]),
                   inferred=tuple(lines))


# ---------------------------------------------------------------------------------------------
# Names

def _name(text):
    """The words of a name in the singular; customerid is two."""
    parts, plain = [], words(text)
    for word in plain[:-1] if len(plain) > 1 and plain[-1].isdigit() else plain:     # club_id_1
        ending = next((e for e in ENDINGS[:2] if word.endswith(e) and len(word) > len(e) + 2), "")
        parts += [word[:-len(ending)], ending] if ending else [word]
    return tuple([_singular(word) for word in parts if word])


def _singular(word):
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _called(schema):
    """{words of a name: {(table, column) that others may call so: how surely}}."""
    found = {}
    for table in schema.tables:
        noun, primary = _name(table.name), [c for c in table.columns if c.primary]
        noun = noun[1:] if len(noun) > 1 and noun[0] in PREFIXES else noun
        for column in table.columns if noun and not table.view else ():
            own = _name(column.name)
            names = {noun + tuple([word for word in own if word not in noun]): WHOLE}
            if not BARE.issuperset(own):
                names.setdefault(own, WHOLE if own[:len(noun)] == noun else COLUMN)
            if primary == [column] or not primary and own in (("id",), (*noun, "id")):
                names.setdefault(noun, PART)
                names.setdefault(noun[-1:] + own[-1:], PART)     # category_id: product_category.id
                for word in ABOVE:
                    for name in (_name(word), _name(word) + own[-1:]):
                        names.setdefault(name, SELF)
            for name, sure in names.items():
                found.setdefault(name, {})[table.name, column.name] = sure
    return found


def _proposed(table, column, called):
    """[(how surely, (table, column))] that a column's name may mean, the surest first."""
    own, place = _name(column.name), (table.name, column.name)
    alone = [c for c in table.columns if c.primary] == [column]
    least = WHOLE if alone else SELF             # a table's own key refers to what it names in full
    plural = own and column.name[-1] in "sS" and own[-1][-1] != "s"
    if plural or alone and called.get(own, {}).get(place) == WHOLE:
        return []                                # home_games counts
    found = {}
    for start in range(len(own)):
        for parent, sure in called.get(own[start:], {}).items():
            inside = parent[0] == table.name     # parent_product_id, or a word of ABOVE
            if sure >= least and inside == (inside and start > 0 or sure == SELF):
                found.setdefault(parent, sure - start / 8)
    found.pop(place, None)
    return sorted([(sure, parent) for parent, sure in found.items()], reverse=True)


# ---------------------------------------------------------------------------------------------
# Values

def _parent(table, column, called, unique, profiles):
    """((table, column) that a column refers to, the evidence), or None."""
    child, good = profiles.of(table.name, column.name), []
    for sure, place in _proposed(table, column, called) if not child.fractions else ():
        parent, plain = profiles.of(*place), sure <= COLUMN
        if good and sure < good[0][0]:
            break
        if not parent.identifies or plain and child.filled and child.numeric != parent.numeric:
            continue
        if place not in unique and (parent.filled < 2 or plain and (
                child.identifies or _name(place[1])[-1] not in ENDINGS)):
            continue
        held, of = profiles.held((table.name, column.name), place)
        if held >= INCLUDED * of and (of or sure > PART and place in unique):
            good.append((sure, place in unique, place, held, of))
    good = [one for one in good if one[1]] or good       # a declared key before a found one
    if len(good) != 1:
        return None                                      # none, or any of several
    _, _, place, held, of = good[0]
    return place, f"names, {held:,} of {of:,} values" if of else "names; no values yet"


def _declared_unique(table, profiles):
    """(table, column) for those of its columns that are declared unique, each alone."""
    primary = [column.name for column in table.columns if column.primary]
    return {(table.name, name) for name in
            primary * (len(primary) == 1) + profiles.unique_columns(table.name)}
