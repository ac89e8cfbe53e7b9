# Reads Rust sources and prints what they are made of, one item a line, so that a rule about code is one grep:
#
#   KIND <tab> FILE:LINE: TEXT
#
#   path     a path with its `use` groups spread out: std::fs::File, crate::wire::Wire, unsafe, dbg!
#   string   a string or character as written, without its quotes
#   remark   a plain comment
#   doc      a doc comment
#   module   a module declared in this file
#
# What stands under #[cfg(test)] is printed as test-path, test-string and test-module. A file that is a test module as
# a whole is known by its declaration, so a parent comes before its children: sort the file names.
#
# Not a parser: macros are read like code, and only `cfg(test)` and `cfg(all(test, ...))` are understood.

FNR == 1 { start_file() }
{ line($0 "\n") }

function start_file() {
    state = "code"
    path = opener = text = attribute = ""
    braces = groups = brackets = nested = joined = test_at = 0
    mark = (FILENAME in test_files) ? "whole" : ""
}

function emit(kind, at, what) {
    if (kind != "remark" && kind != "doc" && mark != "") kind = "test-" kind
    gsub(/\n/, "\\n", what)
    print kind "\t" FILENAME ":" at ": " what
}

# One line, or what is left of it, from whichever state the line before left.
function line(rest) {
    while (rest != "") {
        if (state == "code") rest = code(rest)
        else if (state == "string") rest = string(rest)
        else if (state == "raw") rest = raw(rest)
        else rest = block(rest)
    }
}

function code(rest,    one, two) {
    one = substr(rest, 1, 1)
    two = substr(rest, 1, 2)
    if (match(rest, /^[ \t\r\n]+/)) return substr(rest, RLENGTH + 1)
    if (two == "//") return comment(rest)
    if (two == "/*") { nested = 1; state = "block"; text = ""; return substr(rest, 3) }
    if (match(rest, /^b?c?r#*"/)) {
        began = FNR; text = ""; state = "raw"
        closer = substr(rest, 1, RLENGTH); sub(/^[a-z]*/, "", closer); sub(/"/, "", closer); closer = "\"" closer
        return substr(rest, RLENGTH + 1)
    }
    if (match(rest, /^[bc]?"/)) { began = FNR; text = ""; state = "string"; return substr(rest, RLENGTH + 1) }
    if (match(rest, /^b?'(\\[^']+|\\'|[^\\'\200-\377]|[\200-\377]+)'/)) {
        text = substr(rest, 1, RLENGTH); sub(/^b?'/, "", text); sub(/'$/, "", text)
        after = RLENGTH
        emit("string", FNR, text)
        return substr(rest, after + 1)
    }
    if (match(rest, /^'[A-Za-z_0-9]+/)) return substr(rest, RLENGTH + 1)
    if (match(rest, /^(r#)?[A-Za-z_0-9]+/)) {
        after = RLENGTH
        word(substr(rest, 1, after))
        return substr(rest, after + 1)
    }
    if (two == "::") { token(two); return substr(rest, 3) }
    if (two == "!=") { token(two); return substr(rest, 3) }
    token(one)
    return substr(rest, 2)
}

function comment(rest) {
    sub(/\n$/, "", rest)
    if (rest ~ /^\/\/[\/!]/ && rest !~ /^\/\/\/\//) emit("doc", FNR, substr(rest, 4))
    else emit("remark", FNR, substr(rest, 3))
    return ""
}

function block(rest,    two) {
    for (; rest != ""; rest = substr(rest, 2)) {
        two = substr(rest, 1, 2)
        if (two == "/*" || two == "*/") {
            nested += two == "/*" ? 1 : -1
            rest = substr(rest, 2)
            if (nested == 0) { emit("remark", FNR, text); state = "code"; return substr(rest, 2) }
        }
        else if (two == "\n") { emit("remark", FNR, text); text = "" }
        else text = text substr(rest, 1, 1)
    }
    return ""
}

function string(rest) {
    if (match(rest, /^[^"\\]+/) || match(rest, /^\\./) || match(rest, /^\\\n/)) {
        text = text substr(rest, 1, RLENGTH)
        return substr(rest, RLENGTH + 1)
    }
    emit("string", began, text)
    state = "code"
    return substr(rest, 2)
}

function raw(rest,    end) {
    end = index(rest, closer)
    if (end == 0) { text = text rest; return "" }
    emit("string", began, text substr(rest, 1, end - 1))
    state = "code"
    return substr(rest, end + length(closer))
}

# Paths: a word after `::` lengthens the path, any other starts one; `::{` opens a group whose members all start with
# what stands before it.
function word(w) {
    sub(/^r#/, "", w)
    if (attribute != "") { attribute = attribute w; return }
    if (joined && path != "") path = path "::" w
    else { flush(); path = prefix() w; path_at = FNR }
    joined = 0
}

function prefix() { return groups > 0 && group_at[groups] == braces ? group[groups] "::" : "" }

function flush() {
    if (path != "") emit("path", path_at, path)
    if (declaring && path != "mod") {
        declared = path
        emit("module", path_at, declared)
        declaring = 0
    }
    else if (path == "mod") declaring = 1
    path = ""
    joined = 0
}

function token(t) {
    if (attribute != "") { in_attribute(t); return }
    if (t == "::") { joined = 1; return }
    if (t == "{" && joined && path != "") {
        braces++; groups++
        group[groups] = path; group_at[groups] = braces
        path = ""; joined = 0
        return
    }
    if (t == "!" && path != "") path = path "!"
    if (t == "*" && joined) path = path "::*"
    flush()
    if (t == "#") attribute = "#"
    else if (t == "{") { if (mark == "next") { mark = "body"; test_at = braces } braces++ }
    else if (t == "}") {
        if (groups > 0 && group_at[groups] == braces) groups--
        braces--
        if (mark == "body" && braces <= test_at || mark == "next" && braces < test_at) mark = ""
    }
    else if (t == ";" && mark == "next") { test_file(declared); mark = "" }
}

function in_attribute(t) {
    attribute = attribute t
    if (t == "[") brackets++
    else if (t == "]" && --brackets == 0) {
        if (attribute ~ /^#!?\[cfg\((test\)|all\(test,)/ && mark == "") {
            mark = attribute ~ /^#!/ ? "whole" : "next"
            test_at = braces
            declared = ""
        }
        attribute = ""
    }
}

# `#[cfg(test)] mod name;` in src/a.rs is src/a/name.rs, in src/lib.rs src/name.rs; either may be a folder's mod.rs.
function test_file(name,    folder) {
    if (name == "") return
    folder = FILENAME
    if (folder ~ /\/(lib|main|mod)\.rs$/) sub(/[^\/]*$/, "", folder)
    else sub(/\.rs$/, "/", folder)
    test_files[folder name ".rs"] = test_files[folder name "/mod.rs"] = 1
}
