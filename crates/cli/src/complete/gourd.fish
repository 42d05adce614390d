# fish completion for gourd: gourd completion fish | source
function __gourd_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in ($words[1] __complete -- $words[2..-1] "$current" 2>/dev/null)
        switch $line
            case ':*folders*'
                __fish_complete_directories $current
            case ':*files*'
                __fish_complete_path $current
            case ':*'
            case '*'
                echo $line
        end
    end
end
complete -c gourd -f -a '(__gourd_complete)'
