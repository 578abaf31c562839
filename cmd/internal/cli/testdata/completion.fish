# fish completion for tool
function __tool_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] __complete $words[2..-1] 2>/dev/null)
    if string match -q ':files*' -- $found[1]
        __fish_complete_path (commandline -ct)
        return
    end
    printf '%s\n' $found
end
complete -c tool -f -a '(__tool_complete)'
