#compdef gourd
# zsh completion for gourd: source <(gourd completion zsh), after compinit; or as _gourd in a folder of $fpath
_gourd() {
    local -a lines plain
    local line value directive
    lines=("${(@f)$("${(Q)words[1]}" __complete -- "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2>/dev/null)}")
    for line in $lines; do
        case $line in
        :*) directive=$line ;;
        *)
            value=${line%%$'\t'*}
            plain+=("${value//:/\\:}:${line#*$'\t'}")
            ;;
        esac
    done
    local -a more
    [[ $directive != *nospace* ]] || more=(-S '')
    local found=1
    ((! $#plain)) || _describe -V gourd plain "${(@)more}" && found=0
    case $directive in
    *folders*) _files -/ && found=0 ;;
    *files*) _files && found=0 ;;
    esac
    return $found
}
if [[ ${funcstack[1]} == _gourd ]]; then
    _gourd "$@"
else
    compdef _gourd gourd
fi
