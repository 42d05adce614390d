# bash completion for gourd: source <(gourd completion bash)
_gourd() {
    local gourd=${COMP_WORDS[0]/#\~/$HOME} rest=${COMP_LINE:0:COMP_POINT} words=() i line
    # The words as they are typed: bash cuts them at : and =, so those without white space between them go together.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        local trimmed=${rest#"${rest%%[![:space:]]*}"} word=${COMP_WORDS[i]}
        [[ $i -lt $COMP_CWORD ]] || word=$trimmed
        if ((i > 0)) && [[ $trimmed == "$rest" && -n $rest ]]; then
            words[${#words[@]} - 1]+=$word
        else
            words+=("$word")
        fi
        rest=${trimmed#"$word"}
    done
    local current=${words[${#words[@]} - 1]}
    # What bash thinks the word is; the rest of it stays as it is.
    local fixed=${current%"$2"} directive= IFS=$'\n'
    COMPREPLY=()
    for line in $("$gourd" __complete -- "${words[@]:1}" 2>/dev/null); do
        case $line in
        :*) directive=$line ;;
        *)
            line=${line%%$'\t'*}
            COMPREPLY+=("${line#"$fixed"}")
            ;;
        esac
    done
    case $directive in
    *nospace*) compopt -o nospace ;;
    esac
    # As file names they get their slashes, and their special characters escaped: not so beside other candidates.
    case $directive in
    *folders* | *files*) ((${#COMPREPLY[@]})) || compopt -o filenames ;;
    esac
    case $directive in
    *folders*) COMPREPLY+=($(compgen -d -- "$2")) ;;
    *files*) COMPREPLY+=($(compgen -f -- "$2")) ;;
    esac
}
complete -F _gourd gourd
